-- The register of a room. KEYS: the sorted set. ARGV: `enter`, `leave` or `expire`; milliseconds of the lease; attendees.
-- Answers with those who were not there, who were, or who expired.
local key, what = KEYS[1], ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(number) return string.format('%.0f', number) end
if what == 'expire' then
  local gone = redis.call('ZRANGEBYSCORE', key, '-inf', text(now))
  if #gone > 0 then redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now)) end
  return gone
end
local answer = {}
for i = 3, #ARGV do
  local changed
  if what == 'enter' then
    changed = redis.call('ZADD', key, text(now + ARGV[2]), ARGV[i])
  else
    changed = redis.call('ZREM', key, ARGV[i])
  end
  if changed == 1 then answer[#answer + 1] = ARGV[i] end
end
-- A room that every node has forgotten is forgotten here as well, but long after its attendees expired.
if what == 'enter' then redis.call('PEXPIRE', key, text(ARGV[2] * 100)) end
return answer
