-- The check before the timed load: every body is different, of so many bytes as the first argument says, and
-- an answer is right if it has status 200 and is the body of a request that was sent and not answered yet.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/octet-stream"

local threads = {}
local open = {}
local sent = 0

answers = 0
wrong = 0

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  padding = string.rep("0", tonumber(args[1]) - 64)
end

function request()
  sent = sent + 1
  local body = padding .. string.format("%064d", sent)
  open[body] = true
  return wrk.format(nil, nil, nil, body)
end

function response(status, headers, body)
  answers = answers + 1
  if status == 200 and open[body] then
    open[body] = nil
  else
    wrong = wrong + 1
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  local all, bad = 0, errors.connect + errors.read + errors.write + errors.timeout
  for _, thread in ipairs(threads) do
    all = all + thread:get("answers")
    bad = bad + thread:get("wrong")
  end
  io.write(string.format("CHECKED answers=%d wrong=%d\n", all, bad))
end
