-- s:sweep{..}: what one change does in each place, each alone in the original, measured against it on the part of the
-- text that is shown. The fork stays as it is (a fork of a fork sweeps from there): the sweep is one entry of its list
-- that s:undo() strikes, and a result that as text is a map. Options:
--   over       "head" or "layer": the options beside it are put into every head or layer alone; or lists of values,
--              {denominator={"sum","length","none"}, ..}: every combination, put into `layer`
--   layer      "*" (default): of the values all layers at once, of heads and layers all of them; a number or a list:
--              these; "each": the values in each layer alone
--   calibrate  true: with the factors that s:calibrate finds
--   on_cell    function(sweep, cell), called behind each cell
--   quiet      true: no map that grows on the terminal meanwhile
-- Result: cells { row =, column =, layer = (numbers), head =, options =, mean, lo, hi (at the level that Holm's
-- step-down over all cells gives), p_holm, shown = "worse", "better" or "undecided", kl, bad, tokens, failed = (why it
-- could not be calibrated) }, rows, columns (their names), n (documents), looks.
--
-- What precedes a changed layer is the original's and computed once, and so are the inputs that factors are found on.
local core = require "attnlab.core"
local board = require "attnlab.board"
local calibrate = require "attnlab.surgery.calibrate"
local config = require "attnlab.config"
local evalset = require "attnlab.evalset"
local interrupts = require "attnlab.interrupts"
local measure = require "attnlab.surgery.measure"
local names = require "attnlab.names"
local option_rows = require "attnlab.rows"
local stats = require "attnlab.stats"

local Sweep = require "attnlab.surgery.sweep_map"
local OWN = { "over", "layer", "calibrate", "on_cell", "quiet" }
local MOST_KEPT = 512 << 20 -- bytes of the original's states between layers
local PASS = evalset.PASS

local function fail(...) error("sweep: " .. string.format(...), 0) end

-- ---- the cells ----------------------------------------------------------------------------------------

local function layers_of(n, which)
  local out = {}
  for _, i in ipairs(type(which) == "table" and which or { which == nil and "*" or which == "each" and "*" or which }) do
    if i == "*" then
      for k = 1, n do out[#out + 1] = k end
    elseif math.type(i) == "integer" and i >= 1 and i <= n then
      out[#out + 1] = i
    else
      fail("layer: a number in 1..%d, a list of them, \"*\" or \"each\" expected, got %s", n, tostring(i))
    end
  end
  if #out == 0 then fail("layer: a number, a list of numbers, \"*\" or \"each\" expected, got an empty list") end
  local seen = {} -- each cell is one test of those that are judged together
  for _, i in ipairs(out) do
    if seen[i] then fail("layer: %d is there twice", i) end
    seen[i] = true
  end
  return out
end

-- Every combination of one value of each list, in the order of the keys.
local function combinations(lists)
  local keys, out = names.keys(lists), { {} }
  for _, key in ipairs(keys) do
    local values = lists[key]
    if type(values) ~= "table" or #values == 0 then
      fail("over: %s: a list of values expected, such as {\"sum\",\"none\"}", key)
    end
    for i, v in ipairs(values) do
      for k = 1, i - 1 do
        if option_rows.equal(v, values[k]) then fail("over: %s: %s is there twice", key, option_rows.show(v)) end
      end
    end
    local longer = {}
    for _, before in ipairs(out) do
      for _, v in ipairs(values) do
        local one = config.copy(before)
        one[key] = config.copy(v)
        longer[#longer + 1] = one
      end
    end
    out = longer
  end
  return out
end

local function check(opts)
  opts = names.options("sweep", opts)
  local o, options = {}, {}
  for k, v in pairs(opts) do
    if names.find(OWN, k) then o[k] = v else options[k] = v end
  end
  local over = o.over
  if over ~= "head" and over ~= "layer" and type(over) ~= "table" then
    fail("over: \"head\", \"layer\" or lists of values by option expected, got %s", tostring(over))
  end
  for key, kind in pairs { calibrate = "boolean", quiet = "boolean", on_cell = "function" } do
    if o[key] ~= nil and type(o[key]) ~= kind then fail("option '%s': %s expected, got %s", key, kind, type(o[key])) end
  end
  for k, v in pairs(options) do
    if type(v) == "table" and next(v) == nil then fail("option '%s': a value expected, got an empty table", k) end
  end
  if type(over) ~= "table" and next(options) == nil then
    fail("options of the attention expected beside over, such as denominator=\"none\"")
  elseif type(over) ~= "table" and o.layer == "each" then
    fail("layer: \"each\" goes with lists of values")
  end
  return o, options
end

-- cells, rows, columns, what is swept in words. n, heads: layers and heads of the model.
local function plan(n, heads, o, options)
  local cells, rows, columns, layers = {}, {}, {}, layers_of(n, o.layer)
  local text = config.text(options)
  local function add(cell) cells[#cells + 1] = cell end
  if o.over == "head" then
    for r, i in ipairs(layers) do
      rows[r] = "layer " .. i
      for h = 1, heads do
        columns[h] = h
        add { row = r, column = h, layer = { i }, head = h, options = options }
      end
    end
    return cells, rows, columns, "each head alone: " .. text
  elseif o.over == "layer" then
    for r, i in ipairs(layers) do
      rows[r] = "layer " .. i
      add { row = r, column = 1, layer = { i }, options = options }
    end
    return cells, rows, { "" }, "each layer alone: " .. text
  end
  local each = o.layer == "each"
  for r, values in ipairs(combinations(o.over)) do
    local all = config.copy(options)
    for k, v in pairs(values) do all[k] = v end
    rows[r] = config.text(values)
    if not each then
      columns[1] = ""
      add { row = r, column = 1, layer = layers, options = all }
    end
    for c, i in ipairs(each and layers or {}) do
      columns[c] = i
      add { row = r, column = c, layer = { i }, options = all }
    end
  end
  local where = each and "in each layer alone" or #layers == n and "in all layers"
    or "in layer " .. table.concat(layers, ",")
  return cells, rows, columns, ("each %s %s%s"):format(table.concat(names.keys(o.over), ", "), where,
    text ~= "" and ", with " .. text or "")
end

-- ---- measuring ----------------------------------------------------------------------------------------

-- What enters each layer of the original on the part that is shown: passes of { y, [i] = { x, a } }; nil where that is
-- too much to keep, windows are longer than the model's context or not one text each, or activations are patched on
-- the way.
local function states_of(m, view, context)
  local bytes = view.n * context * m.config.width * 4 * 2 * #m.layers
  if not view.kept or bytes > MOST_KEPT or context > m.config.context or m.patches then return nil end
  if not view.ev.dataset:running() then return nil end
  local out = {}
  for x, y in view.ev.dataset:even("valid", math.max(1, PASS // context), context, view.n) do
    local pass = { y = y }
    local h, a = m:embed(x, 0), nil
    for i, block in ipairs(m.layers) do
      pass[i] = { h, a }
      h, a = block(h, a)
    end
    local sum <close>, last = m.norm:add(h, a)
    local final <close> = last
    local n = #out + 1
    if not view.kept[n] then view.kept[n] = evalset.class.kept_of(m:logits(final), y) end
    out[n] = pass
    x:free()
  end
  return out
end

-- Logits of the fork from layer `first` on.
local function logits_from(fork, first, state)
  local x, a = state[1], state[2]
  for i = first, #fork.layers do
    local y, b = fork.layers[i](x, a)
    if i > first then
      if not rawequal(x, y) then x:free() end
      if a then a:free() end
    end
    x, a = y, b
  end
  local sum <close>, last = fork.norm:add(x, a)
  local h <close> = last
  if first <= #fork.layers then
    x:free()
    if a then a:free() end
  end
  return fork:logits(h)
end

local function difference(fork, view, states, first)
  if not states then return view.ev:diff_kept(fork, fork.original, view.kept) end
  local sums = {}
  for n, pass in ipairs(states) do
    evalset.class.accumulate(sums, logits_from(fork, first, pass[first]), view.kept[n], pass.y)
  end
  return evalset.class.summed(sums)
end

-- Changes the scratch fork, measures it, changes it back.
local function run_cell(cell, fork, view, states, seen)
  for _, i in ipairs(cell.layer) do
    local at = fork.layer[i]
    if cell.head then at = at.head[cell.head] end
    local ok, why = pcall(at.set, at, cell.options)
    if not ok then fail("%s", (config.plain(why):gsub("^set: ", ""))) end
  end
  if seen then
    local ok, why = pcall(calibrate.run, fork, { layer = cell.layer }, seen)
    if not ok and not tostring(why):find "not finite" then error(why, 0) end
    cell.failed = not ok and config.plain(why):gsub("^calibrate: ", "") or nil
  end
  if not cell.failed then
    fork:eval()
    local d = core.no_grad(difference, fork, view, states, math.min(table.unpack(cell.layer)))
    for k, v in pairs(d) do cell[k] = v end
  end
  fork:undo(#fork.log)
end

-- The options that say what was swept.
local function given(opts)
  local out = config.copy(opts)
  out.on_cell, out.quiet = nil, nil
  return out
end

-- Intervals and verdicts: Holm's over all cells that could be measured.
local function judge(sweep)
  local zeros, documents = {}, {}
  for k = 1, sweep.n do zeros[k], documents[k] = 0, k end
  local arms = { { name = "original", values = zeros } }
  for _, c in ipairs(sweep.cells) do
    if c.values and c.bad == 0 then arms[#arms + 1] = { name = #arms, values = c.values, cell = c } end
  end
  for i, row in ipairs(stats.compare(arms, documents)) do
    local c, d = arms[i].cell, row.difference
    if c and d.lo then c.lo, c.hi, c.p_holm, c.shown = d.lo, d.hi, d.p_holm, d.verdict end
  end
  sweep.tested = #arms - 1
end

local function run(fork, opts)
  local o, options = check(opts)
  local cells, rows, columns, title = plan(#fork.layers, fork.layers[1].attention.heads, o, options)
  local p = measure.parts(fork)
  local view = measure.view(fork)
  local sweep = setmetatable({ cells = {}, rows = rows, columns = columns, total = #cells, n = view.n, own = p.own,
    documents = p.documents, context = p.context, calibrated = o.calibrate or false, title = title }, Sweep)
  local scratch = require("attnlab.surgery").fork(fork.original, true)
  local out = board.new(io.stderr)
  local grows = out.tty and os.getenv "TERM" ~= "dumb" and not o.quiet
  local states, seen
  local ok, why = pcall(interrupts.work_at_prompt, function(stop)
    fork.original:eval()
    states = core.no_grad(states_of, fork.original, view, p.context)
    seen = o.calibrate and calibrate.look(fork) or nil
    for k, cell in ipairs(cells) do
      sweep.stopped = stop()
      if sweep.stopped then break end
      run_cell(cell, scratch, view, states, seen)
      sweep.cells[k] = cell
      if o.on_cell then o.on_cell(sweep, cell) end
      if grows then out:show(function() return sweep:lines { bare = true } end) end
    end
  end)
  out:erase()
  if not ok then error(why, 0) end
  local n = #sweep.cells
  if sweep.stopped then sweep.title = ("%s, stopped after %d of %d"):format(title, n, #cells) end
  judge(sweep)
  sweep.looks = { measure.looked(fork, n) - n + 1, measure.looked(fork, 0) }
  fork:enter { kind = "sweep", still = true, sweep = sweep, options = given(opts),
    change = sweep.title .. (o.calibrate and ", calibrated" or ""), take_back = function() end, again = function() end }
  sweep.entry = #fork.log
  if sweep.stopped then interrupts.note(sweep) end
  return sweep
end

local M = {}

-- The cells of a sweep with such options, of a model of so many layers and heads; and what is swept in words.
function M.cells(opts, layers, heads)
  local o, options = check(opts)
  local cells, _, _, title = plan(layers, heads, o, options)
  return cells, title
end

return setmetatable(M, { __call = function(_, fork, opts) return run(fork, opts) end })
