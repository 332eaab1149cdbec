-- The session that README.md shows is what the prompt says: words as they stand, numbers to one unit of their last
-- digit, what rounding makes by its size, and what a model writes where its two best tokens are far enough apart.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local sys = core.sys

local README = sys.read(T.root .. "README.md")
local MARK = "----- the next -----"
local TIE = 1e-3

-- { { input =, output = lines }, .. } of the block that begins with the command.
local function transcript()
  local block = README:match "\n    %$ %./lab repl stories260K\n(.-)\n\n[^ ]"
  local out = {}
  for line in (block .. "\n"):gmatch "    ([^\n]*)\n" do
    local input = line:match "^> (.*)$"
    if input then
      out[#out + 1] = { input = input, output = {} }
    else
      table.insert(out[#out].output, line)
    end
  end
  return out
end

local function replay(list)
  local dir, text = T.folder(), {}
  for i, x in ipairs(list) do text[i] = x.input .. ("\nprint %q\n"):format(MARK) end
  sys.write(dir .. "/in", table.concat(text))
  local status = select(3, os.execute(("COLUMNS=80 HOME=%s %s repl stories260K <%s/in >%s/out 2>%s/err"):format(dir, sys.program(),
    dir, dir, dir)))
  T.eq(sys.read(dir .. "/err"), "")
  T.eq(status, 0)
  local got = {}
  for part in sys.read(dir .. "/out"):gmatch("(.-)" .. MARK:gsub("%p", "%%%0") .. "\n") do
    local lines = {}
    for line in part:gmatch "([^\n]*)\n" do lines[#lines + 1] = line end
    got[#got + 1] = lines
  end
  return got
end

local NUMBER = "%d+%.?%d*"

-- One unit of the last digit of a number as it is written.
local function unit(text)
  return 10.0 ^ -#(text:match "%.(%d*)$" or "")
end

local function same_line(want, got, what)
  if want:find "^%s+rounding" then
    T.ok(tonumber(got:match "±(%S+)") < 1e-5, got)
    return
  end
  T.eq((got:gsub(NUMBER, "#")), (want:gsub(NUMBER, "#")))
  local others = got:gmatch(NUMBER)
  for a in want:gmatch(NUMBER) do
    local b = others()
    T.ok(math.abs(tonumber(a) - tonumber(b)) <= 1.01 * unit(a), ("%s: %s for %s in\n%s"):format(what, b, a, want))
  end
end

-- The least distance of the two best logits on the way of n greedy tokens; 0 where they are not finite.
local function margin(m, n)
  local least = math.huge
  m:eval()
  local logits, st = m:step({ m.vocabulary.bos }, m:state())
  for _ = 1, n do
    local first, second, id = -math.huge, -math.huge, 0
    for i, v in ipairs(logits:flat()) do
      if v - v ~= 0 then return 0 end
      if v > first then first, second, id = v, first, i - 1 elseif v > second then second = v end
    end
    least = math.min(least, first - second)
    logits, st = m:step({ id }, st)
  end
  return least
end

T.test("the README's session is what the prompt says", function()
  local list = transcript()
  T.ok(#list >= 4, "inputs of the transcript")
  local got = replay(list)
  T.eq(#got, #list)
  local m = lab.model.load(T.root .. "experiments/models/stories260K.bin")
  local s, texts = m:fork(), 0
  T.ok(margin(m, 60) > TIE, "the original's text has no ties")
  for i, x in ipairs(list) do
    assert(load(x.input, "=input", "t", { s = s }))()
    T.eq(#got[i], #x.output)
    local tied = margin(s, 60) <= TIE
    for n, line in ipairs(x.output) do
      if not (tied and line:find "^%s+after   [^o]") then
        texts = texts + (line:find "^%s+after   [^o]" and 1 or 0)
        same_line(line, got[i][n], x.input)
      end
    end
  end
  T.ok(texts >= 2, "texts that were compared: " .. texts)
end)
