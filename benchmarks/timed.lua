-- The timed load: one fixed body, of so many bytes as the first argument says, or what is in the file that the second
-- one names. wrk itself counts statuses of 400 and more; looking at answers from Lua would make the generator, which
-- shares the machine, part of what is measured.
wrk.method = "POST"
wrk.headers["Content-Type"] = wrk.headers["Content-Type"] or "application/octet-stream"

function init(args)
  if args[2] then
    local file = assert(io.open(args[2], "rb"))
    wrk.body = file:read("*a")
    file:close()
  else
    local size = tonumber(args[1])
    wrk.body = string.sub(string.rep("torchrelay-64-by", math.ceil(size / 16)), 1, size)
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "RESULT requests=%d duration_us=%d p50_us=%d p99_us=%d refused=%d broken=%d\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
