-- More numbers than an int counts, on the current device: indices and sums of the card, of which it takes 17 GiB
-- (tests/card.lua).
local core = require "attnlab.core"

local device = core.on()
local n = (1 << 31) + 12345
local x <close> = core.zeros { shape = { n } }
x[{ { n - 1, n } }] = { 3, 4 }
x[{ { 1, 1 } }] = { 2 }
local y <close> = x:scale { by = 2 }
x:free()
assert(y[{ n }]:item() == 8 and y[{ n - 1 }]:item() == 6 and y[{ 1 }]:item() == 4, "the ends")
assert(y[{ 1 << 31 }]:item() == 0, "the middle")
assert(y:sum():item() == 18, "the sum")
print(("%d numbers on %s, as it should be"):format(n, device))
