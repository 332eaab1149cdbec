-- Sequences that are written together, by one state. All of them have seen equally many tokens at any time: what is
-- run at once is as many as the shortest has, and then a sequence whose prompt goes on is given its next token while
-- the others write theirs. So a state needs one position, and every variant carries its own; what a sequence sees is
-- what it sees alone, where products of other sizes may round otherwise. Those that have ended leave the state when
-- half of its rows are idle.
local core = require "attnlab.core"

local Decoder = {}
Decoder.__index = Decoder

-- rows: arrays of ids, which the caller appends to. past: what follows at the end of the context (generate.lua); where
-- it slides, a prompt longer than the context begins with its last tokens.
local function new(m, rows, past)
  local self = setmetatable({ m = m, past = past, rows = rows, live = {}, fed = 0, seconds = 0, n = 0, later = 0, slides = 0 }, Decoder)
  local context = m.config.context
  self.cut = {}
  for b, ids in ipairs(rows) do
    self.live[b] = b
    if past == "stop" and #ids > context then
      error(("generate: the prompt of %d tokens is longer than the context of %d"):format(#ids, context), 0)
    end
  end
  self:open()
  for b, ids in ipairs(rows) do self.cut[b] = self.past == "continue" and 0 or math.max(0, #ids - context) end
  return self
end

-- An empty state of the rows that live; where none fits into memory, why, and then the context runs again for every token.
function Decoder:open()
  local ok, st = pcall(self.m.state, self.m, { batch = #self.live, beyond = self.past == "continue" })
  if ok then
    self.state, self.held = st, table.move(self.live, 1, #self.live, 1, {})
    return
  end
  if tostring(st):find "interrupted$" then error(st, 0) end
  self.no_state = tostring(st):gsub("^%S+:%d+: ", "")
  if self.past ~= "continue" then return end
  if self.m:has_positions() then error("generate: past_context=continue needs a state: " .. self.no_state, 0) end
  self.past = "slide"
end

-- Runs tokens first..last of each row of `list` through the model, numbered from where the row began; its last logits
-- (rows, vocab).
function Decoder:feed(list, first, last)
  local part, n = {}, last - first + 1
  for i, b in ipairs(list) do
    local ids, at = self.rows[b], self.cut[b] + first
    part[i] = table.move(ids, at, at + n - 1, 1, {})
    for k = #part[i] + 1, n do part[i][k] = ids[#ids] end -- it has ended: what it is given is read by nobody
  end
  local h <close>, after = self.m:hidden(part, self.state and { state = self.state } or nil)
  if self.state then self.state:free() end
  self.state = after
  local final <close> = h[{ {}, n }]
  return self.m:logits(final)
end

-- How many tokens every live row has that the state has not seen.
function Decoder:unseen()
  local n = math.huge
  for _, b in ipairs(self.live) do n = math.min(n, #self.rows[b] - self.cut[b] - self.fed) end
  return n
end

function Decoder:restart(length)
  if self.state then self.state:free() end
  self:open()
  if self.no_state then return self:feed(self.live, math.max(1, self.fed - self.m.config.context + 1), self.fed) end
  return self:feed(self.held, self.fed - length + 1, self.fed)
end

local function next_logits(self)
  local context, n = self.m.config.context, self:unseen()
  local at = self.state and self.state:position() or 0
  if self.no_state then
    if self.past == "stop" and self.fed + n > context then return nil end
    self.fed = self.fed + n
    return self:feed(self.live, math.max(1, self.fed - context + 1), self.fed), self.live
  elseif self.past == "continue" or at < context then
    if self.past ~= "continue" then n = math.min(n, context - at) end
    self.fed = self.fed + n
    return self:feed(self.held, self.fed - n + 1, self.fed), self.held
  elseif self.past == "slide" then
    self.slides, self.fed = self.slides + 1, self.fed + 1
    local logits = self:restart(math.max(1, context // 2))
    return logits, self.held
  end
end

-- Logits (rows, vocab) behind what all live rows have, and the row of each; nil where the context is full and they have
-- to stop. A row whose prompt goes on is in it, too: row_waits says so.
function Decoder:logits()
  local began, first = core.sys.clock(), self.fed == 0
  local logits, list = next_logits(self)
  local took = core.sys.clock() - began
  if first then
    self.prompt_seconds = took
  elseif logits then
    self.n, self.seconds = self.n + 1, self.seconds + took
  end
  return logits, list
end

-- Whether a row's next token is one that it has.
function Decoder:waits(b)
  return #self.rows[b] - self.cut[b] > self.fed
end

-- Row b has ended.
function Decoder:drop(b)
  for i = #self.live, 1, -1 do
    if self.live[i] == b then table.remove(self.live, i) end
  end
  if not self.state or #self.live == 0 or 2 * #self.live > #self.held then return end
  local keep = {}
  for i, row in ipairs(self.held) do
    for _, alive in ipairs(self.live) do
      if row == alive then keep[#keep + 1] = i end
    end
  end
  local all = self.state
  self.state, self.held = all:rows(keep), table.move(self.live, 1, #self.live, 1, {})
  all:free()
end

return new
