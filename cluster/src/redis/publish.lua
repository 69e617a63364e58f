-- Appends messages to a room. KEYS after those of `open`: one for each message_id.
-- ARGV after those of `open`: log size, log TTL in ms, id window in ms, channel, PUBLISH or SPUBLISH, then for each
-- message its text and the index of its id's key, or 0.
-- Answers with the epoch, then the seq of each message.
local size, ttl, window, channel, command = tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local time = redis.call('TIME')
local now = time[1] .. string.format('%03d', math.floor(tonumber(time[2]) / 1000))
local first, answers, parts = seq + 1, {epoch}, {}
for i = 8, #ARGV, 2 do
  local key = tonumber(ARGV[i + 1])
  local known = key > 0 and tonumber(redis.call('GET', KEYS[key]) or nil)
  if known and known <= seq then
    answers[#answers + 1] = known
  else
    local message, number = ARGV[i], text(seq + 1)
    if size > 0 then redis.call('XADD', log, number .. '-0', 't', now, 'm', message) end
    if key > 0 then redis.call('SET', KEYS[key], number, 'PX', window) end
    seq = seq + 1
    parts[#parts + 1] = #message .. ':' .. message
    answers[#answers + 1] = seq
  end
end
if #parts > 0 then
  redis.call('HSET', meta, 'seq', text(seq))
  redis.call('PEXPIRE', meta, ARGV[2])
  if size > 0 then
    redis.call('XTRIM', log, 'MAXLEN', size)
    redis.call('PEXPIRE', log, ttl)
  end
  redis.call(command, channel, epoch .. ' ' .. text(first) .. '\n' .. table.concat(parts))
end
return answers
