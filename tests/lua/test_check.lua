-- check: the command, its certificate, and runs that carry it.
local T = ...
local core = require "attnlab.core"
local certificate = require "attnlab.certificate"
local checkers = require "attnlab.checkers"
local config = require "attnlab.config"
local json, sys = core.json, core.sys

local build = sys.program():match "^(.*)/"
local root = T.folder()

-- Exit status and output of a command line.
local function run(...)
  local out = T.folder() .. "/out"
  local argv = { sys.program(), "check", "out_dir=" .. root, ... }
  argv.stdout, argv.stderr = out, out
  local pid = sys.spawn(argv)
  local how, code
  repeat how, code = sys.wait(pid) until how ~= "running"
  return how == "exited" and code or how, sys.read(out)
end

T.test("a variant that holds: table, status 0, a certificate that names what was checked", function()
  local file = T.folder() .. "/all.json"
  local code, text = run("p1/linear_elu", "--json", file)
  T.eq(code, 0, text)
  for _, word in ipairs { "parallel composed", "chunked fused", "by tokens", "rounding", "causality", "state bytes" } do
    T.ok(text:find(word, 1, true), word .. " in:\n" .. text)
  end
  local family, options = core.check.canonical("p1/linear_elu")
  local path = certificate.path(root, family, options)
  local record = json.decode(sys.read(path))
  T.eq(record.passed, true)
  T.eq(record.variant, "p1/linear_elu")
  T.eq(record.version, core.version)
  T.eq(record.options, options)
  T.ok(record.seconds_on.cpu > 0 and record.seconds_on.cpu <= record.seconds, "seconds by device")
  T.ok(record.date:find "^%d%d%d%d%-%d%d%-%d%dT" and record.build and record.source.program and #record.rows > 50)
  local all = json.decode(sys.read(file))
  T.eq(all.passed, true)
  T.eq(#all.variants[1].rows, #record.rows)
  for _, name in ipairs(sys.list(root .. "/certificates")) do T.ok(name:find "%.json$", name .. " is left over") end
end)

-- The certificate of the only variant of a family.
local function recorded(family)
  for _, name in ipairs(sys.list(root .. "/certificates")) do
    if name:find("^" .. family .. "%-%x+%.json$") then return json.decode(sys.read(root .. "/certificates/" .. name)) end
  end
  error("no certificate of " .. family)
end

T.test("a variant that does not: status 1, the fault by name, a certificate that says so", function()
  local code, text = run(build .. "/tests/broken/row_sums.so")
  T.eq(code, 1, text)
  T.ok(text:find("claims weights that sum to one", 1, true), text)
  local found = false
  for _, name in ipairs(sys.list(root .. "/certificates")) do
    if name:find "^row_sums%-" then
      local record = json.decode(sys.read(root .. "/certificates/" .. name))
      found = record.passed == false and #record.source.sha256 == 64
    end
  end
  T.ok(found)
end)

-- a sanitizer would turn the signal into an ordinary end
sys.setenv("ASAN_OPTIONS", (os.getenv "ASAN_OPTIONS" or "") .. ":handle_segv=0")
T.test("a variant that ends the process is a failure, not the end of the check", function()
  local code, text = run(build .. "/tests/broken/crashes.so")
  T.eq(code, 1, text)
  T.ok(text:find("the process ended by signal 11", 1, true), text)
  T.ok(text:find("crashes: crashed in ways to run it: as given, f64, 1 rows of 3 tokens", 1, true), text)
  T.eq(recorded "crashes".passed, false)
  code, text = run(build .. "/tests/broken/exits.so")
  T.eq(code, 1, text)
  T.ok(text:find("ended with status 0 before the end of the check: the variant calls exit", 1, true), text)
  T.eq(recorded "exits".passed, false)
end)

T.test("a variant that does not end is a failure", function()
  local code, text = run(build .. "/tests/broken/hangs.so", "--patience", "2")
  T.eq(code, 1, text)
  T.ok(text:find("no progress for 2 s: a call of the variant does not end", 1, true), text)
  T.eq(recorded "hangs".passed, false)
  T.eq((run("p1/softmax", "--patience", "0")), 2)
end)

T.test("variants that share a process: one that ends it, or does not pass, is the last there and takes no other with it", function()
  local list, dir, order = {}, T.folder(), {}
  local paths = {}
  for i, name in ipairs { "crashes", "row_sums" } do paths[i] = build .. "/tests/broken/" .. name .. ".so" end
  for i, name in ipairs { "p1/linear_elu", "crashes", "row_sums", "p2/cottention", "p1/linear_elu" } do
    list[i] = { name = name, plugins = paths, out = dir .. "/" .. i, family = name, options = "" }
  end
  local whole = checkers.run(list, { text = "", patience = 300, device = "cpu", jobs = 1, most = 4 }, function(job)
    order[#order + 1] = ("%s %s"):format(job.name, job.result.passed)
  end)
  T.eq(whole, true)
  T.eq(order, { "p1/linear_elu true", "crashes false", "row_sums false", "p2/cottention true", "p1/linear_elu true" })
  T.ok(list[2].result.rows[1].text:find "the process ended by signal 11", list[2].result.rows[1].text)
  T.eq(sys.list(dir), {})
end)

T.test("what cannot be checked is an error that names it", function()
  local code, text = run "p1/sofmax"
  T.eq(code, 2)
  T.ok(text:find("did you mean", 1, true), text)
  code, text = run()
  T.eq(code, 2, text)
  code, text = run("p1/softmax", "denominater=none")
  T.eq(code, 2)
  T.ok(text:find("did you mean 'denominator'", 1, true), text)
end)

T.test("options arrive as they were written", function()
  local expr = { "max(s,0)", "(s+1)^2", "exp(s )" }
  for i, e in ipairs(expr) do
    local _, text = run("kernel_attention", "similarity=expr", "expr=" .. e, "feature_map=nonsense")
    T.ok(text:find("option 'feature_map'", 1, true), ("%d: %s"):format(i, text)) -- expr was taken
  end
  local code, text = run("softmax", "feature_map=it's 'x'")
  T.eq(code, 2)
  T.ok(text:find("got 'it's 'x''", 1, true), text)
  code, text = run("softmax", "feature_map='\"")
  T.eq(code, 2)
  T.ok(text:find("got ''\"'", 1, true), text)
end)

T.test("a file that cannot be written is refused before anything runs", function()
  for path, why in pairs { ["/nowhere/x.json"] = "there is no folder '/nowhere'", [root] = "a file expected" } do
    local code, text = run("p1/softmax", "--json", path)
    T.eq(code, 1)
    T.ok(text:find(why, 1, true) and not text:find "passed", text)
  end
end)

T.test("runs carry the certificates of what they use", function()
  local cfg = config.resolve { model = { layers = 1, width = 16, heads = 2, context = 8, vocab = 5 },
                               attention = { preset = "p1/linear_elu" } }
  local list = certificate.of(root, cfg)
  T.eq(#list, 1)
  T.eq(list[1].passed, true)
  T.eq(list[1].sha256, sys.sha256(sys.read(list[1].certificate)))
  T.eq(certificate.word(list), "passed")
  cfg.attention = { preset = "p1/linear_elu", form = "chunked" }
  T.eq(certificate.of(root, cfg)[1].certificate, list[1].certificate, "a certificate is of every form")
  cfg.attention = { preset = "p1/softmax" }
  T.eq(certificate.of(root, cfg)[1].certificate, "none")
  T.eq(certificate.word(certificate.of(root, cfg)), "none")
  T.eq(certificate.word { { certificate = "x", passed = true, stale = true } }, "stale")
  cfg.attention = { preset = "p1/linear_elu" }
  local path = sys.realpath(list[1].certificate)
  local whole = sys.read(path)
  for _, bytes in ipairs { whole:sub(1, #whole // 2), "", "{}", '{"source":{},"passed":"true"}', "\0" } do
    sys.write(path, bytes)
    local c = certificate.of(root, cfg)
    T.eq({ c[1].certificate, c[1].damaged, c[1].passed, certificate.word(c) }, { list[1].certificate, true, nil, "damaged" })
  end
  sys.write(path, whole)
  T.eq(certificate.word(certificate.of(root, cfg)), "passed")
  T.eq(certificate.word { { certificate = "x", damaged = true }, { certificate = "none" } }, "damaged")
  T.eq(certificate.word { { certificate = "x", passed = true }, { certificate = "y", passed = false } }, "FAILED")
end)
