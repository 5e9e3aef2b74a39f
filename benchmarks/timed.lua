-- The timed load: one fixed body of so many bytes as the first argument says. wrk itself counts statuses of 400 and more; looking at answers
-- from Lua would make the generator, which shares the machine, part of what is measured.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/octet-stream"

function init(args)
  local size = tonumber(args[1])
  wrk.body = string.sub(string.rep("torchrelay-64-by", math.ceil(size / 16)), 1, size)
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "RESULT requests=%d duration_us=%d p50_us=%d p99_us=%d refused=%d broken=%d\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
