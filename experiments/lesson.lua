-- A lesson in surgery, gone through with
--   ./lab repl --step experiments/lesson.lua
-- An empty line runs the chunk that is shown; whatever else you type runs first. ?set, ?show and ?sweep explain more.
local lab = require "attnlab"
local m = lab.open("stories260K").model -- 260,000 weights that write stories for small children
local s = m:fork()                      -- the same weights, to operate on; m stays as it is

-- 1. What is softmax's denominator worth? Take it out of the last layer alone. Look at the formula before and after, and
--    at the loss: an interval over 24 short stories that the model never saw. The text beside it often says less.
s.layer[5]:set{denominator = "none"}

-- 2. Now out of every layer. Without a denominator nothing holds the sum of exps in bounds: the numbers overflow. Look at
--    which layer breaks first, and at its largest logit: exp of it is what the values were multiplied by.
s.layer["*"]:set{denominator = "none"}

-- 3. Clamp the logits, as the block proposes. The numbers stay finite; is the model whole again?
s.layer["*"]:set{logit_clamp = 5}

-- 4. Put a norm in the denominator's place. A positive factor cancels in it, so that the sum of exps is not needed: this
--    is "exp + L2". The clamp goes with what made it needed. Look at how much of the loss comes back.
s.layer["*"]:set{output_norm = "l2", logit_clamp = false}

-- 5. A unit vector has another size than an average of values. One constant a head brings the sizes back: what it mends
--    was scale, what it leaves is the denominator's own part.
s:calibrate()

-- 6. Which heads need it? Each alone, against the original: dark heads cost most, hatched ones overflow. Nothing of this
--    stays in the fork.
s:undo(5)
s:sweep{over = "head", denominator = "none", output_norm = "l2", calibrate = true}

-- 7. What a head looks at: a row for each token, dark where it reads. This one rests on the first tokens when it finds
--    nothing better, as on a sink; layer 2 head 1 reads a few words back.
m:map{text = "Once upon a time there was a little girl named Lily. She had a cat.", layer = 4, head = 1}

-- 8. What a head says can be taken away too: its output is zero from now on, in the loss as in what the model writes.
s:patch{name = "heads", layer = 4, head = 1, with = "zero"}

-- 9. Or a head speaks at one place for another text: only what it says at the fifth token is that of the dog.
s:undo()
s:patch{name = "heads", layer = 4, head = 1, at = {5}, with = {text = "Once upon a time there was a big dog."}}

-- 10. exp is a series, and each order is a recurrent network of its own. To the first order: weights 1 + s.
s:undo()
s.layer["*"]:set{similarity = "taylor", order = 1}

-- 11. Order by order. More of them do not heal this model: its logits reach far below zero, where exp is next to nothing
--     and the last term s^p / p! is large. A model that is trained with the series keeps its logits small:
--     experiments/taylor_orders.lua.
for order = 2, 8, 2 do
  s:undo()
  s.layer["*"]:set{similarity = "taylor", order = order}
  local now = s:show()
  print(("order %d: loss %+.4f, KL %.4f"):format(order, now.mean, now.kl))
end
m:trace("Once upon a time there was a little girl.", {"logit"})

-- 12. All of it taken back: the fork is the model again, to the last bit.
s:undo(#s:swaps())
