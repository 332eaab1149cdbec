-- Tokens of a window of text that a model is measured and tuned on where nobody says how many: its context, of a model
-- that came from elsewhere at most 1,024, for its file may name 262,144.
local MOST = 1024

return function(m) return m.hub and math.min(m.config.context, MOST) or m.config.context end
