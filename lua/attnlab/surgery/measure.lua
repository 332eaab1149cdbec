-- What is measured of a fork as it is, against its original, on the part of the text that is shown (parts.lua): of
-- (fork, {windows=, data=}) gives what surgery/show.lua prints. What the original gives is kept, so that a state costs
-- one pass of the fork, one of a few documents in another form, and a line of text.
local core = require "attnlab.core"
local generate = require "attnlab.generate"
local Documents = require "attnlab.nn.documents"
local names = require "attnlab.names"
local parts = require "attnlab.surgery.parts"
local taps = require "attnlab.nn.taps"
local evalset = require "attnlab.evalset"
local window_of = require "attnlab.model.window"

local M = {}

local MOST_KEPT = 256 << 20 -- bytes of the original's log-probabilities
local FEW = 8               -- documents that rounding is measured on
local LETTERS = 160         -- of the text that is written, about two lines

local function weak() return setmetatable({}, { __mode = "k" }) end
local kits, looks = weak(), weak() -- by original; by the model that all forks began with

-- What belongs to a fork's original: its parts, and what was kept of it.
local function kit_of(fork)
  local kit = kits[fork.original]
  if not kit then
    kit = { views = {} }
    kits[fork.original] = kit
  end
  return kit
end

-- Counts n more looks at the part of the text that is shown, for whatever fork of one model; returns their number.
function M.looked(fork, n)
  local root = fork
  while root.source and root.source[1] do root = root.source[1] end
  root = root.original or root
  local data = kit_of(fork).data or ""
  looks[root] = looks[root] or {}
  looks[root][data] = (looks[root][data] or 0) + n
  return looks[root][data]
end

-- What names another text than the model's own for the fork; nil.
function M.text(fork) return kit_of(fork).data end

-- The parts of the fork's text; data names another one for it, from now on.
function M.parts(fork, data)
  local kit = kit_of(fork)
  if data ~= nil and data ~= kit.data then kit.parts, kit.views = nil, {} end
  if not kit.parts then
    fork.original:eval()
    kit.parts = parts.of(fork.original, data)
    kit.data = data
  end
  return kit.parts
end

-- The evaluation set of so many windows of the part that is shown, and what is kept of the original on it.
function M.view(fork, windows)
  local kit, p = kit_of(fork), M.parts(fork)
  local all = p.show
  local most = all.dataset:windows("valid", p.context, 1 << 30)
  local n = math.min(windows or p.count.show, most)
  if not kit.views[n] then
    local ev = n == p.count.show and all or evalset { data = all.dataset, windows = n, context = p.context }
    local fits = n * p.context * fork.config.vocab * 4 <= MOST_KEPT
    kit.views[n] = { ev = ev, n = n, most = most, kept = fits and {} or nil }
  end
  return kit.views[n]
end

-- ---- rounding -----------------------------------------------------------------------------------------

local FORMS = { { "composed", { impl = "composed" } }, { "recurrent", { form = "recurrent" } },
                { "parallel", { form = "parallel" } }, { "fused", { impl = "fused" } } }

-- The same weights with every layer that has one in another form, and its name; nil where no layer has.
local function other_form(fork, T)
  for _, form in ipairs(FORMS) do
    local twin, changed = fork:twin(), false
    for i, block in ipairs(fork.layers) do
      local ok, why = pcall(function() twin.layer[i]:set(form[2]) end)
      if not ok and tostring(why):find "interrupted$" then error("interrupted", 0) end
      changed = changed or ok and twin.layers[i].attention.family:plan(T) ~= block.attention.family:plan(T)
    end
    if changed then return twin, form[1] end
  end
end

-- What the same weights in another form differ by: the mean size of a document's difference, over a few.
local function rounding(fork, p)
  local twin, name = other_form(fork, p.context)
  if not twin then return nil end
  local set = p.show.dataset
  local few = evalset { data = set, windows = math.min(FEW, p.count.show), context = p.context }
  local a, b, sum = few:losses(twin), few:losses(fork), 0
  for i = 1, #a do sum = sum + math.abs(a[i] - b[i]) end
  return { mean = sum / #a, form = name, n = #a }
end

-- ---- what overflows -----------------------------------------------------------------------------------

local function finite(v) return math.abs(v) < math.huge end

-- The largest size in a tensor, as one: it is read when the layer that made it has ended.
local function size_of(t) return t:abs():max() end

-- The option of an attention as its family has it, as a plain value.
local function option(attention, name)
  local family = attention.family
  if type(family) == "table" then family = family.groups[1].part end -- heads of their own: the first group's
  if family:family() ~= "kernel_attention" then return nil end
  for _, row in ipairs(family:options()) do
    if row.name == name then return row.value == nil and row.default or row.value end
  end
end

-- The largest logit of a layer for q and k, before a clamp, as a tensor; nil where the formula has none that q and k make alone.
local function largest_logit(attention, q, k)
  local map, scale = option(attention, "feature_map"), option(attention, "logit_scale")
  if map ~= "identity" or scale == "learned" then return nil end
  local by = tonumber(scale) or 1 / math.sqrt(attention.head_dim)
  local s <close> = core.op.scores(q, k, { scale = by })
  return s:max()
end

-- Where numbers of a document leave their range, from the sizes that were seen of each layer and of the last sum.
local function first_of(seen, last)
  for i, s in ipairs(seen) do
    if not finite(s.enters:item()) then return i - 1, "sum" end
    if not finite(s.gives:item()) then return i, "attention" end
  end
  if not finite(last:item()) then return #seen, "sum" end
end

-- Where a fork's numbers leave their range first: { layer =, what = "attention" or "sum", logit = (the largest of that
-- layer in the document where it happens), hint = bool }. values: the difference of each window.
local function overflow(fork, view, values)
  local found, seen, n, documents = nil, nil, 0, nil
  local function look(i, q, k, _, x)
    local a = fork.layers[i].attention
    local o <close> = (a:outputs(x, { documents = documents }))
    seen[i] = { enters = size_of(x), gives = size_of(o), logit = largest_logit(a, q, k) }
  end
  local ev, mode = view.ev, fork.training
  fork:eval()
  local ok, why = pcall(core.no_grad, function()
    for x, _, more in ev.dataset:even("valid", 1, ev.context, view.n) do
      n = n + 1
      documents = Documents.of(more and more.documents, x)
      if not finite(values[n]) and not (found and found.layer <= 1) then
        seen = {}
        local h <close> = fork:hidden(x, { taps = taps.inputs(#fork.layers, look), documents = documents })
        local layer, what = first_of(seen, size_of(h))
        if layer and not (found and found.layer <= layer) then
          local logit = seen[math.max(1, layer)].logit
          found = { layer = layer, what = what, logit = logit and logit:item() }
        end
      end
      x:free()
    end
  end)
  fork:train(mode)
  if not ok then error(why, 0) end
  if not found then return { what = "logits" } end
  local similarity = option(fork.layers[math.max(1, found.layer)].attention, "similarity")
  found.hint = (similarity == "exp" or similarity == "cosh") and found.what == "attention" or nil
  return found
end

-- ---- text ---------------------------------------------------------------------------------------------

-- About a line of text, greedy and from the start on unless options of generate say otherwise; second result: that it
-- ended with a token that is not finite.
local function written(m, tokens, how)
  local pieces, opts = {}, { tokens = tokens }
  for k, v in pairs(how or {}) do opts[k] = v end
  opts.on_token = function(piece) pieces[#pieces + 1] = piece end
  local ok, text = pcall(m.generate, m, opts)
  if ok then return text, false end
  if not tostring(text):find "left their range" then error(text, 0) end
  return table.concat(pieces), true
end

local function text_of(m, how)
  if not m.vocabulary then return nil end
  return written(m, m.vocabulary.kind == "characters" and LETTERS or LETTERS // 2, how)
end

-- ---- all of it ----------------------------------------------------------------------------------------

local KNOWN = { "windows", "data", "write" }

local function check(fork, opts)
  opts = names.options("show", opts, KNOWN)
  local n = opts.windows
  if n ~= nil and (math.type(n) ~= "integer" or n < 2) then
    error(("show: option 'windows': a whole number >= 2 expected, got %s"):format(tostring(n)), 0)
  end
  if opts.write ~= nil then
    if type(opts.write) ~= "table" then
      error(("show: option 'write': a table of options of generate expected, got %s"):format(type(opts.write)), 0)
    end
    if opts.write.prompts or opts.write.samples then error("show: option 'write': one text is shown: no prompts, no samples", 0) end
    if fork.vocabulary then generate.options(fork, opts.write) end
  end
  return opts
end

-- The number of this look at the part: a state that was looked at before keeps its own.
local function look_of(fork, entry)
  entry.look = entry.look or M.looked(fork, 1)
  return entry.look
end

local function bytes(r, fork)
  r.state_bytes, r.original_bytes = fork:state_bytes(r.context), fork.original:state_bytes(r.context)
end

-- What can be said of a fork whose model has no text.
local function unmeasured(fork, n, why)
  local r = { changes = n, context = window_of(fork), missing = names.reason(tostring(why)) }
  bytes(r, fork)
  return r
end

function M.of(fork, opts)
  opts = check(fork, opts)
  local kit, last, n = kit_of(fork), fork:last_change()
  if n == 0 then return { changes = 0 } end
  local ok, p = pcall(M.parts, fork, opts.data)
  if not ok and (opts.data ~= nil or tostring(p):find "interrupted$") then error(p, 0) end
  if not ok then return unmeasured(fork, n, p) end
  local r = { changes = n, documents = p.documents, own = p.own, context = p.context }
  local view = M.view(fork, opts.windows)
  local d = view.ev:diff_kept(fork, fork.original, view.kept)
  fork:measured(d, fork.original)
  for k, v in pairs(d) do r[k] = v end
  r.windows, r.most, r.look = view.n, view.most, look_of(fork, last)
  if r.bad > 0 then
    r.overflow = overflow(fork, view, r.values)
  else
    r.rounding = rounding(fork, p)
  end
  bytes(r, fork)
  if opts.write then
    r.original_text = text_of(fork.original, opts.write)
  else
    kit.text = kit.text or text_of(fork.original)
    r.original_text = kit.text
  end
  r.text, r.broken = text_of(fork, opts.write)
  return r
end

return M
