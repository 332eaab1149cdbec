-- Losses of tokens in windows, and what they add up to: over all, by window, by how many tokens stood before.
-- A change here makes no run stale.
local core = require "attnlab.core"
local stats = require "attnlab.stats"

local M = {}
local Scores = {}
Scores.__index = Scores

local CHUNK = 1024 -- tokens whose logits are there at once

-- sliding: windows are scored in part, so a token and not a window is what counts alike. masked: rows may have targets
-- that do not count.
function M.new(sliding, masked)
  return setmetatable({ sliding = sliding, masked = masked, tokens = 0, longest = 0, sums = {}, counts = {}, means = {}, buckets = {} }, Scores)
end

-- Losses (B,T) of targets y given x, none longer than CHUNK or the piece. Positions beyond the context run on.
local function piece_losses(m, x, y, more)
  local B, T = x:size(1), x:size(2)
  local opts = more
  if T > m.config.context then opts = { state = m:state { batch = B, beyond = true } } end
  if B * T <= CHUNK or not m.hidden then
    local logits <close> = m:forward(x, opts)
    return (logits:cross_entropy(y, { reduction = "none" }))
  end
  local h <close> = m:hidden(x, opts)
  local parts = {}
  for first = 1, T, math.max(1, CHUNK // B) do
    local last = math.min(T, first + math.max(1, CHUNK // B) - 1)
    local some <close> = h[{ {}, { first, last } }]
    local logits <close> = m:logits(some:contiguous())
    local of_y <close> = y[{ {}, { first, last } }]:contiguous()
    parts[#parts + 1] = logits:cross_entropy(of_y, { reduction = "none" })
  end
  return (core.op.concat(parts, { axis = 2 }))
end

-- Losses (B,T) of targets y given windows x, read in pieces, each from an empty context; the last piece is shifted back
-- where it would be shorter, and only its new targets count. And for each column how many tokens it sees.
function M.losses(m, x, y, piece, more)
  local T, parts, position = x:size(2), {}, {}
  if more and piece < T then
    error(("evaluate: packed rows of %d tokens: windows up to the model's context expected"):format(T), 0)
  end
  for first = 1, T, piece do
    local start = piece < T and math.min(first, T - piece + 1) or 1
    local last = math.min(first + piece - 1, T)
    local ids <close> = x[{ {}, { start, last } }]:contiguous()
    local targets <close> = y[{ {}, { start, last } }]:contiguous()
    local all <close> = piece_losses(m, ids, targets, more)
    parts[#parts + 1] = all[{ {}, { first - start + 1, last - start + 1 } }]:contiguous()
    for t = first, last do position[t] = t - start + 1 end
  end
  return core.op.concat(parts, { axis = 2 }), position
end

-- Bucket of a position: 1, 2, 3-4, 5-8, .. Bucket b ends with 2^(b-1).
local function bucket_of(p)
  local b, to = 1, 1
  while to < p do b, to = b + 1, to * 2 end
  return b
end

-- Adds losses (B,T) of windows, of which columns from.. are scored and targets < 0 are none.
function Scores:add(nll, y, from, position)
  local B, T, values, targets = nll:size(1), nll:size(2), nll:flat(), y:flat()
  local bucket = {}
  for t = 1, T do
    bucket[t], self.longest = bucket_of(position[t]), math.max(self.longest, position[t])
  end
  local means = nll:mean { axes = { 2 } }:flat()
  for b = 1, B do
    local w, s, n, own = #self.sums + 1, 0, 0, {}
    for t = from, T do
      local i = (b - 1) * T + t
      if targets[i] >= 0 then
        local k = bucket[t]
        local c = own[k] or { sum = 0, n = 0 }
        own[k] = c
        s, n, c.sum, c.n = s + values[i], n + 1, c.sum + values[i], c.n + 1
      end
    end
    self.sums[w], self.counts[w], self.tokens = s, n, self.tokens + n
    self.means[w] = self.masked and n > 0 and means[b] * T / n or means[b]
    for k, c in pairs(own) do
      self.buckets[k] = self.buckets[k] or { sums = {}, counts = {} }
      local into = self.buckets[k]
      into.sums[#into.sums + 1], into.counts[#into.counts + 1] = c.sum, c.n
    end
  end
end

-- Mean over tokens of windows that may have different numbers of them, and its standard error: the spread of what the
-- windows' sums are off what their tokens would have at the mean.
local function ratio(sums, counts)
  local s, n, squares = 0, 0, 0
  for i, v in ipairs(sums) do s, n = s + v, n + counts[i] end
  if n == 0 then return nil end
  local mean, k = s / n, #sums
  if k < 2 then return mean, nil, n end
  for i, v in ipairs(sums) do squares = squares + (v - counts[i] * mean) ^ 2 end
  return mean, math.sqrt(squares * k / (k - 1)) / n, n
end

-- Mean loss and its standard error over the windows (nil of one): the mean of the windows' means, to the last bit what
-- evalset says, or where they slide of the tokens.
function Scores:mean()
  if self.sliding then return ratio(self.sums, self.counts) end
  local deviation = stats.deviation(self.means)
  return stats.mean(self.means), deviation and deviation / math.sqrt(#self.means)
end

-- Nats of all tokens together.
function Scores:nats()
  local s = 0
  for _, v in ipairs(self.sums) do s = s + v end
  return s
end

-- Mean loss of each window by its number, without those that nothing is scored of; and the numbers of all.
function Scores:by_window()
  local out, list = {}, {}
  for i, s in ipairs(self.sums) do
    out[i], list[i] = self.counts[i] > 0 and s / self.counts[i] or nil, i
  end
  return out, list
end

-- Loss by position: { from, to, tokens, loss, standard_error } of each bucket that has a token.
function Scores:positions()
  local out, list = {}, {}
  for k in pairs(self.buckets) do list[#list + 1] = k end
  table.sort(list)
  for _, k in ipairs(list) do
    local loss, se, n = ratio(self.buckets[k].sums, self.buckets[k].counts)
    out[#out + 1] = { from = k == 1 and 1 or (1 << (k - 2)) + 1, to = math.min(1 << (k - 1), self.longest), tokens = n, loss = loss, standard_error = se }
  end
  return out
end

return M
