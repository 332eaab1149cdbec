-- The text of one sequence while it is written: whole characters, up to the first of some stop strings.
local Stream = {}
Stream.__index = Stream

-- Tokens that the bytes of a character may be spread over: what is no character then will be none.
local MOST = 4

local REPLACED = utf8.char(0xFFFD) -- which decoders write for bytes that are no character yet

-- Whether a text ends within a character.
local function unfinished(s)
  if s:sub(-#REPLACED) == REPLACED then return true end
  for n = 1, math.min(3, #s) do
    local c = s:byte(-n)
    if c >= 0xC0 then return c < 0xF8 and n < (c >= 0xF0 and 4 or c >= 0xE0 and 3 or 2) end
    if c < 0x80 then return false end
  end
  return false
end

-- ids: grows; those that are there are the prompt, whose text is not given out. stops: array of strings. emit(text):
-- is given what is sure to stand, or nil.
local function new(vocabulary, ids, stops, emit)
  return setmetatable({ vocabulary = vocabulary, ids = ids, stops = stops, emit = emit, parts = {}, held = "",
                        first = math.max(1, #ids - MOST), seen = #ids }, Stream)
end

local function give(self, text)
  if text == "" then return end
  self.parts[#self.parts + 1] = text
  if self.emit then self.emit(text) end
end

-- The earliest place of a stop string in a text.
local function found(self, s)
  local at
  for _, stop in ipairs(self.stops) do
    local i = s:find(stop, 1, true)
    if i and (not at or i < at) then at = i end
  end
  return at
end

-- How many of the last bytes may be the beginning of a stop string.
local function possible(self, s)
  local most = 0
  for _, stop in ipairs(self.stops) do
    for n = math.min(#stop - 1, #s), most + 1, -1 do
      if s:sub(-n) == stop:sub(1, n) then
        most = n
        break
      end
    end
  end
  return most
end

-- What the tokens behind `seen` add to the text. A decoder may look at the token before (a space that begins a text is
-- left out), so both texts begin with tokens that were shown already.
local function fresh(self)
  local n, v = #self.ids, self.vocabulary
  local all = v:decode(table.move(self.ids, self.first, n, 1, {}))
  local before = self.seen < self.first and ""
    or v:decode(table.move(self.ids, self.first, self.seen, 1, {}))
  return all:sub(#before + 1), all
end

-- A token has come. Whether a stop string is complete: then the text is.
function Stream:add()
  local text, all = fresh(self)
  if unfinished(all) and #self.ids - self.seen < MOST then return false end
  self.first, self.seen = math.min(self.seen + 1, #self.ids), #self.ids
  return self:take(text)
end

function Stream:take(text)
  local s = self.held .. text
  local at = found(self, s)
  if at then
    self.held = ""
    give(self, s:sub(1, at - 1))
    return true
  end
  local n = possible(self, s)
  self.held = s:sub(#s - n + 1)
  give(self, s:sub(1, #s - n))
  return false
end

-- No token comes any more: what was held back is given out. Whether a stop string is complete now.
function Stream:close()
  if #self.ids > self.seen and self:take((fresh(self))) then return true end
  give(self, self.held)
  self.held = ""
  return false
end

-- The text behind the prompt.
function Stream:text() return table.concat(self.parts) end

return new
