"""The real python-socketio client against a server: `client.py URL`. Ends with status 0 when everything holds."""

import queue
import sys
import time

import socketio

url = sys.argv[1]
run = f"{time.time_ns():x}"


def check(transports, name):
    client = socketio.Client(reconnection=False)
    events = queue.Queue()
    client.on("price_update", lambda message: events.put(message))
    responses = queue.Queue()
    client.on("connect_response", lambda message: responses.put(message))
    client.connect(url, transports=transports, wait_timeout=60)
    assert responses.get(timeout=60)["status"] == "connected"
    room = f"market_{run}_{name}"
    told = client.call("subscribe", {"room": room}, timeout=60)
    assert told["status"] == "subscribed" and told["seq"] == 0, told
    for n in range(20):
        payload = {"room": room, "event": "price_update", "data": {"n": n}}
        answer = client.call("request", {"request_id": "r", "action": "publish", "payload": payload}, timeout=60)
        assert answer["data"]["seq"] == n + 1, answer
    for n in range(20):
        message = events.get(timeout=60)
        assert (message["room"], message["seq"], message["data"]) == (room, n + 1, {"n": n}), message
    data = bytes(range(256))
    echo = client.call("request", {"request_id": "e", "action": "echo", "payload": {"data": data}}, timeout=60)
    assert echo["data"]["data"] == data, echo
    client.disconnect()
    client.connect(url, transports=transports, wait_timeout=60)
    recover = {"epoch": told["epoch"], "seq": 15}
    told = client.call("subscribe", {"room": room, "recover": recover}, timeout=60)
    assert told["recovered"] and [message["seq"] for message in told["messages"]] == [16, 17, 18, 19, 20], told
    client.disconnect()
    print(f"ok: {name}")


check(["websocket"], "websocket")
check(["polling"], "polling")
check(["polling", "websocket"], "upgrade")

stranger = socketio.Client(reconnection=False)
try:
    stranger.connect(url, namespaces=["/nowhere"], wait_timeout=5)
    sys.exit("a namespace that is not there was entered")
except socketio.exceptions.ConnectionError:
    print("ok: namespace refusal")
