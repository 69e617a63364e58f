-- Takes or gives up a lease. KEYS: the lease. ARGV: run, milliseconds (0 gives it up), 1 to take it from another run,
-- the report. Answers 1, or 0 if another run has it.
local run = redis.call('HGET', KEYS[1], 'run')
if run and run ~= ARGV[1] and ARGV[3] ~= '1' then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'run', ARGV[1], 'report', ARGV[4])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
