-- Help on whatever a name means: op, attention preset or family, attention option, configuration
-- key. All of it comes from descriptors and rows.
-- A change here makes no run stale.
local core = require "attnlab.core"
local config = require "attnlab.config"
local names = require "attnlab.names"
local nn_attention = require "attnlab.nn.attention"
local rows = require "attnlab.rows"

local M = {}

local function op_text(op)
  local words = {}
  for i, input in ipairs(op.inputs) do
    words[i] = input.optional and "[" .. input.name .. "]" or input.name
  end
  if #op.args > 0 then words[#words + 1] = "{..}" end
  local out = { ("op %s(%s)"):format(op.name, table.concat(words, ", ")), "  " .. op.doc }
  for _, input in ipairs(op.inputs) do
    if input.doc and input.doc ~= "" then
      out[#out + 1] = ("  %s: %s"):format(input.name, input.doc)
    end
  end
  for _, output in ipairs(op.outputs) do
    out[#out + 1] = ("  gives %s%s"):format(output.name, output.doc ~= "" and ": " .. output.doc or "")
  end
  if #op.args > 0 then out[#out + 1] = "options:\n" .. rows.help(op.args) end
  return table.concat(out, "\n")
end

local function describe(name)
  local ok, text = pcall(core.attn.describe, name)
  return ok and text
end

-- What a:forward of an instance takes, and forward of a layer.
local function calls()
  local inputs, args = core.attn.inputs()
  local out = { "what forward of an instance takes, in one table:" }
  for _, row in ipairs(inputs) do
    out[#out + 1] = ("  %s: %s%s"):format(row.name, row.doc, row.optional and ", may be absent" or "")
  end
  out[#out + 1] = rows.help(args)
  out[#out + 1] = "what forward of the layer takes beside x:"
  out[#out + 1] = rows.help(nn_attention.forward_rows)
  return table.concat(out, "\n")
end

local function overview()
  local ops, presets = {}, {}
  for i, op in ipairs(core.ops()) do ops[i] = op.name end
  for i, p in ipairs(core.attn.list()) do presets[i] = p.name end
  return table.concat({
    "ops: " .. table.concat(ops, " "), "attention presets: " .. table.concat(presets, " "),
    "configuration: " .. table.concat(config.keys(), " "),
    'help("name") explains one of them; help("attention") lists the options of the formula',
  }, "\n\n")
end

-- Everything a name can be asked by, for completion and nearest names.
function M.topics()
  local out = { "attention", "config" }
  for _, op in ipairs(core.ops()) do out[#out + 1] = op.name end
  for _, p in ipairs(core.attn.list()) do out[#out + 1] = p.name end
  for _, row in ipairs(core.attn.options "") do out[#out + 1] = row.name end
  for _, k in ipairs(config.keys()) do out[#out + 1] = k end
  return out
end

-- Text for a name, or for everything without one. Unknown names are errors with the nearest name.
function M.text(name)
  if name == nil then return overview() end
  if name == "attention" then
    return "options of the formula:\n" .. rows.help(core.attn.options "")
      .. "\noptions of the layer around it:\n" .. rows.help(nn_attention.rows) .. "\n" .. calls()
  end
  if name == "config" then
    return "model:\n" .. rows.help(config.rows.model)
      .. "\ntrain:\n" .. rows.help(config.rows.train)
  end
  local found = {}
  for _, op in ipairs(core.ops()) do
    if op.name == name then found[#found + 1] = op_text(op) end
  end
  found[#found + 1] = describe(name) or nil
  local last = name:match("([^%.]+)$")
  for _, part in ipairs { { "attention option", core.attn.options "" },
                          { "layer option", nn_attention.rows },
                          { "model option", config.rows.model },
                          { "train option", config.rows.train } } do
    local row = rows.find(part[2], last)
    if row then found[#found + 1] = part[1] .. "\n" .. rows.help({ row }) end
  end
  if #found == 0 then error("help: " .. names.unknown("name", name, M.topics()), 0) end
  return table.concat(found, "\n\n")
end

return M
