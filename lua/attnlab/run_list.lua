-- lab.runs{experiment=, arm=, seed=, state=, sort="date", out_dir="runs"}: the runs on disk, as an array that is a table as
-- text. sort: "date", "loss", "arm" or "dir". Each has dir, experiment, variant (with what a call changed), arm, seed,
-- state, step, valid_loss, date (seconds, of its last change), stale, reason, check, and differs: the keys that most of
-- these runs have otherwise. lab.open takes one; r:curve "valid/loss" and r:plot() show how it fell, list:plot() all.
-- A change here makes no run stale.
local certificate = require "attnlab.certificate"
local config = require "attnlab.config"
local core = require "attnlab.core"
local curves = require "attnlab.curves"
local names = require "attnlab.names"
local rows = require "attnlab.rows"
local runs = require "attnlab.runs"
local store = require "attnlab.store"
local tables = require "attnlab.table"
local sys = core.sys

local M = {}

-- The run folders below root, of one experiment where that is named.
function M.every(root, only)
  local list = {}
  if sys.exists(root) ~= "dir" then return list end
  for _, name in ipairs(sys.list(root)) do
    local folder = names.inside(root, name)
    if (not only or name == only) and sys.exists(folder) == "dir" then
      for _, id in ipairs(sys.list(folder)) do
        local dir = folder .. "/" .. id
        if sys.exists(store.file(dir, "config.json")) then list[#list + 1] = dir end
      end
    end
  end
  return list
end

local Run = { __name = "attnlab.run" }
Run.__index = Run

-- Array of { step, value } of a measurement ("valid/loss").
function Run:curve(name)
  return curves.of(store.metrics(self.dir), name or "valid/loss")
end

-- Its losses as a figure for the terminal, or one measurement by its name.
function Run:plot(name)
  return curves.plot(store.metrics(self.dir), name)
end

function Run:__tostring()
  local points = self.state ~= "damaged" and self:curve() or {}
  return tables.clean(("%s: %s, seed %s, %s at step %d  (%s)%s"):format(self.variant or self.experiment or "?", self.arm or "?",
    self.seed or "?", self.state, self.step, names.shown(self.dir), #points > 0 and "\n  " .. curves.line("valid/loss", points) or ""))
end

local function read(dir)
  local known, spec = pcall(store.config, dir)
  if not known then spec = { made = {} } end -- the status says why
  local run = runs.read(dir, 1, spec.seed, "valid/loss")
  local status = run.status
  return setmetatable({
    dir = dir, experiment = spec.experiment, variant = spec.variant, arm = spec.arm, seed = spec.seed, state = status.state,
    step = status.step, valid_loss = run.value, date = math.tointeger(tonumber(status.time) and status.time // 1),
    stale = #run.differs > 0 and table.concat(run.differs, ", ") or nil,
    reason = status.state == "damaged" and tables.clean(status.reason, true) or nil,
    check = certificate.word(spec.made.certificates) }, Run), known and spec.config
end

-- Gives each run the keys that it has otherwise than most of them: { [key] = value }, without what a run is called.
local function compare(list, configs)
  local flat, count = {}, {}
  for i, r in ipairs(list) do
    flat[i] = configs[r] and config.flatten(configs[r]) or {}
    flat[i]["train.data"] = nil -- a path, where that is one
    for k, v in pairs(flat[i]) do
      count[k] = count[k] or { all = 0 }
      local text = rows.show(v)
      count[k][text], count[k].all = (count[k][text] or 0) + 1, count[k].all + 1
    end
  end
  for i, r in ipairs(list) do
    r.differs = {}
    for k, texts in pairs(count) do
      local own, most, usual = flat[i][k], #list - texts.all, nil -- absent counts as a value
      for _, text in ipairs(names.keys(texts)) do
        if text ~= "all" and texts[text] > most then most, usual = texts[text], text end
      end
      if own ~= nil and rows.show(own) ~= usual then r.differs[k] = own end
    end
  end
end

local function differs_text(differs)
  local words = {} -- train and attention have a key of one name, so config.text would lose one
  for _, k in ipairs(names.keys(differs)) do words[#words + 1] = ("%s=%s"):format(k:match "^%a+%.(.+)$" or k, rows.show(differs[k])) end
  return table.concat(words, " ")
end

local COLUMNS = {
  { key = "n", title = "#", right = true }, { key = "dir", title = "run" }, { key = "name", title = "experiment", wrap = true, drop = 4 },
  { key = "arm", title = "arm", wrap = true }, { key = "seed", title = "seed", right = true },
  { key = "step", title = "step", right = true }, { key = "loss", title = "valid loss", right = true },
  { key = "date", title = "date", drop = 3 }, { key = "check", title = "check", drop = 1 },
  { key = "status", title = "status", wrap = true },
  { key = "stale", title = "stale", wrap = true }, { key = "differs", title = "differs", wrap = true, drop = 2 },
}

-- The list as a table of a width; with: "n" or "dir", what the runs are known by.
function M.text(list, with, width)
  local cells = {}
  for i, r in ipairs(list) do
    cells[i] = { n = with == "n" and tostring(i) or nil, dir = with == "dir" and names.shown(r.dir) or nil,
                 name = with == "n" and (r.variant or r.experiment) or r.variant, arm = r.arm, seed = tostring(r.seed or ""),
                 step = tostring(r.step), loss = r.valid_loss and ("%.4f"):format(r.valid_loss),
                 date = r.date and os.date("%Y-%m-%d %H:%M", r.date), check = r.check, stale = r.stale,
                 status = r.state .. (r.reason and ": " .. r.reason or ""),
                 differs = differs_text(r.differs) }
  end
  return (tables.text(COLUMNS, cells, width))
end

local List = { __name = "attnlab.runs" }

function List:__index(key) return List[key] end

function List:__tostring()
  if #self == 0 and self.of > 0 then
    return ("none of %d run%s in %s fits"):format(self.of, self.of == 1 and "" or "s", names.shown(self.where))
  end
  if #self == 0 then return ("no runs in %s"):format(names.shown(self.where)) end
  return M.text(self, "n", tables.columns())
end

-- The curves of all the runs in one figure for the terminal ("valid/loss").
function List:plot(name)
  local series, parts = {}, { "variant", "arm", "seed" }
  for i, r in ipairs(self) do
    local words = {}
    for _, k in ipairs(parts) do
      local differ = false
      for _, other in ipairs(self) do differ = differ or other[k] ~= r[k] end
      if differ and r[k] then words[#words + 1] = k == "seed" and "seed " .. r[k] or tostring(r[k]) end
    end
    local ok, points = pcall(r.curve, r, name)
    if ok and #points > 0 then series[#series + 1] = { name = #words > 0 and table.concat(words, ", ") or "run " .. i, points = points } end
  end
  return curves.figure(name or "valid/loss", series)
end

local SORTS = {
  date = function(r) return r.date or 0 end, loss = function(r) return r.valid_loss or math.huge end,
  arm = function(r) return r.arm or "" end, dir = function(r) return r.dir end,
}
local TYPES = { experiment = "string", arm = "string", seed = "number", state = "string", sort = "string", out_dir = "string" }

local function check(opts)
  opts = names.options("runs", opts)
  for _, k in ipairs(names.keys(opts)) do
    if not TYPES[k] then error("runs: " .. names.unknown("option", k, names.keys(TYPES)), 0) end
    if type(opts[k]) ~= TYPES[k] then
      error(("runs: option '%s': %s expected, got %s"):format(k, TYPES[k], type(opts[k])), 0)
    end
  end
  if not SORTS[opts.sort or "date"] then error("runs: option 'sort': " .. names.unknown("word", opts.sort, names.keys(SORTS)), 0) end
  if opts.state and not names.find(runs.STATES, opts.state) then
    error("runs: option 'state': " .. names.unknown("word", opts.state, runs.STATES), 0)
  end
  return opts
end

-- What lab.runs gives. A name of an experiment with what was changed, as "denominator+quick", means these runs alone.
function M.list(opts)
  opts = check(opts)
  local root, only = opts.out_dir or "runs", opts.experiment
  local out, configs = setmetatable({}, List), {}
  local plain = only and only:match "^[^+~]*"
  local all = M.every(root, plain)
  out.where, out.of = root .. (plain and "/" .. plain or ""), #all
  for _, dir in ipairs(all) do
    local r, cfg = read(dir)
    local fits = not (only and only:find "[+~]") or r.variant == only
    for _, k in ipairs { "arm", "seed", "state" } do fits = fits and (opts[k] == nil or r[k] == opts[k]) end
    if fits then out[#out + 1], configs[r] = r, cfg end
  end
  local by, at = SORTS[opts.sort or "date"], {}
  for i, r in ipairs(out) do at[r] = i end
  table.sort(out, function(a, b)
    local x, y = by(a), by(b)
    if x == y then return at[a] < at[b] end
    return x < y
  end)
  compare(out, configs)
  return out
end

return M
