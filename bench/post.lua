-- POST of about 64 bytes of JSON; the request is built once, so Lua costs nothing per request.
-- usage: wrk -s post.lua URL -- BODY [KEY]
function init(args)
    wrk.method = "POST"
    wrk.body = args[1]
    wrk.headers["Content-Type"] = "application/json"
    if args[2] then
        wrk.headers["Authorization"] = "Bearer " .. args[2]
    end
end

function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format(
        "\nRESULT %d %d %d %d %d %d %d %d\n",
        summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout,
        latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
