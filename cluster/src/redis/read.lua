-- Reads a part of a room's log. ARGV after those of `open`: `none`, `last` or `after`; a count or a seq; the epoch that
-- the seq is of, or nothing for any; the most entries to give.
-- Answers with epoch, seq, where the epoch began, the time in ms by Redis' clock, and entries: oldest first, but newest
-- first for `last`.
if redis.call('PTTL', meta) < tonumber(ARGV[2]) / 2 then redis.call('PEXPIRE', meta, ARGV[2]) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local what, number, limit = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[6])
local entries = {}
if what == 'last' and number > 0 then
  entries = redis.call('XREVRANGE', log, '+', '-', 'COUNT', number)
elseif what == 'after' then
  if ARGV[5] ~= '' and ARGV[5] ~= epoch then number = 0 end
  if number < seq then
    entries = redis.call('XRANGE', log, text(number + 1) .. '-0', '+', 'COUNT', limit)
  end
end
return {epoch, seq, base, now, entries}
