-- The text of the files that lab.session writes: tables as Lua, studies and experiments. Part of session.lua.
-- A change here makes no run stale.
local core = require "attnlab.core"
local names = require "attnlab.names"

local M = {}

local HEAD = "-- Written by lab.session:study"
local WIDTH = 110
local RESERVED = { ["and"] = true, ["break"] = true, ["do"] = true, ["else"] = true, ["elseif"] = true, ["end"] = true,
  ["false"] = true, ["for"] = true, ["function"] = true, ["goto"] = true, ["if"] = true, ["in"] = true, ["local"] = true,
  ["nil"] = true, ["not"] = true, ["or"] = true, ["repeat"] = true, ["return"] = true, ["then"] = true, ["true"] = true,
  ["until"] = true, ["while"] = true }

-- Whether a text is one that this module made.
function M.ours(text) return text:sub(1, #HEAD) == HEAD end

-- ---- tables as Lua ------------------------------------------------------------------------------------

local Name = {}

-- A local of the file, in a table that is written.
function M.name(word) return setmetatable({ word }, Name) end

local function quoted(s)
  return '"' .. s:gsub('[%c"\\]', function(c)
    local short = ({ ["\n"] = "\\n", ["\t"] = "\\t", ['"'] = '\\"', ["\\"] = "\\\\" })[c]
    return short or ("\\%03d"):format(c:byte())
  end) .. '"'
end

local function number(v)
  if v ~= v then return "0/0" end
  if v == math.huge or v == -math.huge then return v > 0 and "1/0" or "-1/0" end
  if math.type(v) == "integer" then return ("%d"):format(v) end
  local text = ("%.17g"):format(v)
  for digits = 1, 16 do
    local short = ("%." .. digits .. "g"):format(v)
    if tonumber(short) == v then return short:find "[%.e]" and short or short .. ".0" end
  end
  return text
end

local function key_of(k)
  if type(k) == "string" and k:find "^[%a_][%w_]*$" and not RESERVED[k] then return k .. " = " end
  return ("[%s] = "):format(type(k) == "string" and quoted(k) or number(k))
end

-- The keys that say what a thing is come first.
local FIRST = { "name", "model", "file", "path", "experiment", "arm", "seed", "data", "text", "context", "windows", "swap",
                "over", "set", "layer", "head" }

local function keys_of(t)
  local out, rest, seen = {}, names.keys(t), {}
  for _, k in ipairs(FIRST) do
    if t[k] ~= nil then out[#out + 1], seen[k] = k, true end
  end
  for _, k in ipairs(rest) do
    if not seen[k] then out[#out + 1] = k end
  end
  return out
end

local function lua_of(v, indent, width)
  if type(v) == "string" then return quoted(v) end
  if type(v) == "number" then return number(v) end
  if type(v) ~= "table" then return tostring(v) end
  if getmetatable(v) == Name then return v[1] end
  local parts, inner = {}, indent .. "  "
  for _, x in ipairs(v) do parts[#parts + 1] = lua_of(x, inner, width) end
  for _, k in ipairs(keys_of(v)) do parts[#parts + 1] = key_of(k) .. lua_of(v[k], inner, width) end
  if #parts == 0 then return "{}" end
  local line = "{ " .. table.concat(parts, ", ") .. " }"
  if #line + #indent <= (width or WIDTH) and not line:find "\n" then return line end
  return "{\n" .. inner .. table.concat(parts, ",\n" .. inner) .. ",\n" .. indent .. "}"
end
M.lua_of = core.plain(function(v) return lua_of(v, "") end)

local function long(text) return ("[[\n%s]]"):format(text:gsub("%]%]", "] ]")) end

-- ---- files --------------------------------------------------------------------------------------------

-- blocks: array of { letter, states = { { name, steps, seen }, .. } }.
function M.study(name, blocks, cases, claims, story)
  local out = { HEAD .. " from what was measured at the prompt and not undone; ./lab run runs it.",
    "-- It measures on the part of the text that the prompt never shows. `seen` is what the prompt showed, on another part.",
    "local lab = require \"attnlab\"", "" }
  local function add(s) out[#out + 1] = s end
  for _, b in ipairs(blocks) do
    add(("local %s = {"):format(b.letter))
    for _, s in ipairs(b.states) do
      add("  -- seen: " .. s.seen)
      add("  " .. lua_of({ name = s.name, steps = s.steps }, "  ") .. ",")
    end
    add "}\n"
  end
  add "return lab.study {"
  add(("  name = %s,"):format(quoted(name)))
  add "  kind = \"surgery\","
  add "  question = \"What does a trained model lose by what was done to it at the prompt?\","
  add "  cases = {"
  for _, c in ipairs(cases) do add("    " .. lua_of(c, "    ", math.huge) .. ",") end -- a line each
  add "  },\n  seeds = { 1 },"
  if #claims > 0 then
    add "  expect = { -- claimed at the prompt: exploratory"
    for _, x in ipairs(claims) do add("    " .. lua_of(x, "    ") .. ",") end
    add "  },"
  end
  add(("  story = %s,\n}\n"):format(long(story)))
  return table.concat(out, "\n")
end
M.study = core.plain(M.study)

function M.experiment(name, base, arms, seeds, claims)
  local out = { HEAD .. " from what was done at the prompt; ./lab run runs it.",
    "-- Another question than the session's: there a trained model was changed, here each arm is trained from the start",
    "-- with the change. What was seen of the changed model says nothing of the arm:" }
  local function add(s) out[#out + 1] = s end
  for _, c in ipairs(claims) do add("--   " .. c) end
  add "local lab = require \"attnlab\"\n"
  add "return lab.experiment {"
  add(("  name = %s,"):format(quoted(name)))
  add "  question = \"What does a model learn that has had from the start what was done to a trained one?\","
  add("  base = " .. lua_of(base, "  ") .. ",")
  add "  arms = {"
  for _, a in ipairs(arms) do add("    " .. lua_of(a, "    ") .. ",") end
  add "  },"
  add(("  seeds = %s,\n}\n"):format(lua_of(seeds, "  ")))
  return table.concat(out, "\n")
end
M.experiment = core.plain(M.experiment)

return M
