-- The beginning of every script on a room. KEYS: meta, log. ARGV: a fresh epoch, milliseconds that meta is kept.
--
-- The epoch is bound to the replication id, which Redis makes anew whenever its data may be another than before: at every
-- start and at every promotion of a replica. What the log has kept stays, and keeps its numbers; but whether something
-- after it was lost cannot be known here, so the numbers after it are given out under a new epoch.
local meta, log = KEYS[1], KEYS[2]
local id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local held = redis.call('HMGET', meta, 'epoch', 'seq', 'base', 'id')
local epoch, seq, base = held[1], tonumber(held[2]), tonumber(held[3])
local function text(number) return string.format('%.0f', number) end
if not (epoch and seq and base and id and held[4] == id) then
  seq = seq or 0
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  local kept = last and tonumber(string.match(last[1], '^(%d+)-0$')) or 0
  if kept > seq then seq = kept end
  epoch, base = ARGV[1], seq
  redis.call('HSET', meta, 'epoch', epoch, 'seq', text(seq), 'base', text(base), 'id', id or '')
  redis.call('PEXPIRE', meta, ARGV[2])
end
