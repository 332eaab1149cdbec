-- What the forks of this process came to, as data: the states that were measured and not undone, and the sweeps, with
-- the models that they began with; and what cannot be written down, with reasons. Part of session.lua.
-- A change here makes no run stale.
local core = require "attnlab.core"
local config = require "attnlab.config"
local measure = require "attnlab.surgery.measure"
local names = require "attnlab.names"
local open = require "attnlab.open"
local steps = require "attnlab.surgery.steps"
local stats = require "attnlab.stats"
local subject = require "attnlab.surgery.subject"
local surgery = require "attnlab.surgery"
local sweep = require "attnlab.surgery.sweep"
local tables = require "attnlab.table"
local sys = core.sys

-- Whether the model is what the file or run holds.
local function same_weights(m, what)
  local other = subject.load(what, "runs")
  local a, b = m:tensors(), other:tensors()
  for _, name in ipairs(names.keys(b)) do
    if not a[name] then return false end
  end
  for name, t in pairs(a) do
    local o = b[name]
    if not o or t:dtype() ~= o:dtype() or not core.no_grad(function() return (t - o):abs():max():item() == 0 end) then
      return false
    end
  end
  return true
end

-- What finds the model again that a fork began with, as a study takes it; nil and why not.
local function model_of(fork)
  local origin = fork.root.origin
  if not origin then return nil, "its model was made here: m:save(\"FILE.safetensors\") and open that" end
  local what = { experiment = origin.experiment, arm = origin.arm, seed = origin.seed, quick = origin.quick }
  if not origin.experiment then
    local stem = origin.path:match "([^/]+)%.%a+$"
    what = stem and open.model_file(stem) and sys.realpath(open.model_file(stem)) == origin.path and { file = stem }
      or { path = origin.path }
  end
  local ok, same = pcall(same_weights, fork.root, what)
  if not ok and tostring(same):find "interrupted$" then error(same, 0) end
  if not ok then return nil, names.reason(tostring(same)) end
  if not same then
    return nil, ("its model is not what %s holds any more: m:save(\"FILE.safetensors\") and open that")
      :format(subject.title(what))
  end
  return what
end

-- "+0.1280 [0.1013, 0.1547]", what was seen of an entry.
local function seen_of(e)
  local d, look = e.difference, e.look and (", look %d"):format(e.look) or ""
  if not d then return e.loss and ("loss %.4f"):format(e.loss) .. look or "measured" .. look end
  if d.bad then return ("%d of %d tokens not finite%s"):format(d.bad, d.tokens, look) end
  return ("%s%s nats%s"):format(stats.show(d.mean, 0, "+"), d.lo and (" [%s, %s]"):format(stats.show(d.lo),
    stats.show(d.hi)) or "", look)
end

-- The states and sweeps of a fork; what is left out goes to `out`.
local function collect(fork, letter, out)
  local layers, list, found = #fork.layers, {}, { states = {}, sweeps = {} }
  for _, e in ipairs(fork.before) do
    local step, why = steps.of(e, layers)
    if not step then
      out[#out + 1] = ("fork %s: it began behind %s"):format(letter, why)
      return found
    end
    list[#list + 1] = step
  end
  local begun, whole = config.copy(list), true
  for k, e in ipairs(fork.log) do
    if e.still then
      local options = config.copy(e.options)
      options.before = #begun > 0 and begun or nil
      found.sweeps[#found.sweeps + 1] = { options = options, title = e.change, sweep = e.sweep }
    elseif whole then
      local step, why = steps.of(e, layers)
      if step then
        list[#list + 1] = step
        if e.difference or e.look or e.loss then
          local name = ("%s%d %s%s"):format(letter, k, #list > 1 and "+ " or "", steps.text(step))
          found.states[#found.states + 1] = { name = tables.cut(tables.clean(name)), steps = config.copy(list),
                                              seen = seen_of(e) .. (#begun > 0 and ", beside the fork it began with" or ""),
                                              difference = #begun == 0 and e.difference or nil }
        end
      else
        whole = false
        out[#out + 1] = ("fork %s: its change %d and those behind it: %s"):format(letter, k, why)
      end
    end
  end
  return found
end

-- Drops sweeps whose cells another one has: a study measures each once.
local function distinct(list, out)
  local all, taken = {}, {}
  for _, f in ipairs(list) do
    for _, s in ipairs(f.sweeps) do
      local keys, options = {}, config.copy(s.options)
      options.before = nil
      for _, c in ipairs(sweep.cells(options, #f.fork.layers, f.fork.layers[1].attention.heads)) do
        keys[#keys + 1] = core.json.encode { f.model, f.text or "", s.options.before or {}, options.calibrate or false,
          c.options, c.layer, c.head or 0 }
      end
      all[#all + 1] = { fork = f, sweep = s, keys = keys }
    end
    f.sweeps = {}
  end
  local order = table.move(all, 1, #all, 1, {})
  for i, s in ipairs(all) do s.place = i end
  table.sort(order, function(a, b)
    if #a.keys ~= #b.keys then return #a.keys > #b.keys end
    return a.place < b.place
  end)
  for _, s in ipairs(order) do
    local known = 0
    for _, key in ipairs(s.keys) do known = known + (taken[key] and 1 or 0) end
    if known > 0 and known < #s.keys then
      out[#out + 1] = ("fork %s: the sweep of %s: another one has %d of its cells"):format(s.fork.letter, s.sweep.title, known)
    end
    s.wanted = known == 0
    for _, key in ipairs(s.wanted and s.keys or {}) do taken[key] = true end
  end
  for _, s in ipairs(all) do
    if s.wanted then table.insert(s.fork.sweeps, s.sweep) end
  end
end

-- Everything of the session that can be written: array of { fork, letter, model, states, sweeps, text }, and what not.
return function()
  subject.renew() -- what was opened earlier may have been trained again since
  local list, out = {}, {}
  for i, fork in ipairs(surgery.forks()) do
    local letter = i <= 26 and string.char(64 + i) or "F" .. i
    local found = collect(fork, letter, out)
    if #found.states + #found.sweeps > 0 then
      local model, why = model_of(fork)
      local text = measure.text(fork)
      if not model then
        out[#out + 1] = ("fork %s: %s"):format(letter, why)
      elseif text ~= nil and type(text) ~= "string" then
        out[#out + 1] = ("fork %s: its text is a dataset, which no file can name"):format(letter)
      else
        found.fork, found.letter, found.model, found.text = fork, letter, model, text
        list[#list + 1] = found
      end
    end
  end
  distinct(list, out)
  if #list == 0 then
    error("study: nothing to write: no state of a fork that was measured and not undone, and no sweep"
      .. (#out > 0 and "; " .. table.concat(out, "; ") or ""), 0)
  end
  return list, out
end
