local lab = require "attnlab"

return lab.experiment {
  name = "taylor_orders",
  title = "How many orders of exp does attention need?",
  question = "How many orders of exp does attention need?  exp(s) = 1 + s + s^2/2! + ..., cut at order p, divided by its\n"
    .. "sum over the row; and each order alone, divided by the sum of its absolute values, as odd powers change sign.",
  source = "Mongaras and Larson, On the Expressiveness of Softmax Attention, arXiv 2507.23632, section 4.4",

  base = {
    model = { layers = 2, width = 64, heads = 4, mlp = 128, context = 64 },
    train = { data = "shakespeare", steps = 300, batch_size = 16, lr = 3e-3, betas = { 0.9, 0.99 }, warmup_steps = 30,
              schedule = "linear", min_lr = 0, grad_clip = 1, eval_interval = 50, eval_windows = 128,
              checkpoint_interval = 100 },
  },

  arms = {
    { name = "softmax" },
    { name = "up to 1", at = { "up to p, odd", 1 }, attention = { similarity = "taylor", order = 1 } },
    { name = "up to 2", at = { "up to p, even", 2 }, attention = { similarity = "taylor", order = 2 } },
    { name = "up to 3", at = { "up to p, odd", 3 }, attention = { similarity = "taylor", order = 3 } },
    { name = "up to 4", at = { "up to p, even", 4 }, attention = { similarity = "taylor", order = 4 } },
    { name = "up to 5", at = { "up to p, odd", 5 }, attention = { similarity = "taylor", order = 5 } },
    { name = "up to 6", at = { "up to p, even", 6 }, attention = { similarity = "taylor", order = 6 } },
    { name = "up to 7", at = { "up to p, odd", 7 }, attention = { similarity = "taylor", order = 7 } },
    { name = "up to 8", at = { "up to p, even", 8 }, attention = { similarity = "taylor", order = 8 } },
    { name = "up to 9", at = { "up to p, odd", 9 }, attention = { similarity = "taylor", order = 9 } },
    { name = "up to 10", at = { "up to p, even", 10 }, attention = { similarity = "taylor", order = 10 } },
    { name = "only 1", at = { "p alone", 1 },
      attention = { similarity = "taylor", order = 1, orders = { 1 }, denominator = "abs" } },
    { name = "only 2", at = { "p alone", 2 },
      attention = { similarity = "taylor", order = 2, orders = { 2 }, denominator = "abs" } },
    { name = "only 3", at = { "p alone", 3 },
      attention = { similarity = "taylor", order = 3, orders = { 3 }, denominator = "abs" } },
    { name = "only 4", at = { "p alone", 4 },
      attention = { similarity = "taylor", order = 4, orders = { 4 }, denominator = "abs" } },
    { name = "only 5", at = { "p alone", 5 },
      attention = { similarity = "taylor", order = 5, orders = { 5 }, denominator = "abs" } },
    { name = "only 6", at = { "p alone", 6 },
      attention = { similarity = "taylor", order = 6, orders = { 6 }, denominator = "abs" } },
    { name = "only 7", at = { "p alone", 7 },
      attention = { similarity = "taylor", order = 7, orders = { 7 }, denominator = "abs" } },
    { name = "only 8", at = { "p alone", 8 },
      attention = { similarity = "taylor", order = 8, orders = { 8 }, denominator = "abs" } },
    { name = "only 9", at = { "p alone", 9 },
      attention = { similarity = "taylor", order = 9, orders = { 9 }, denominator = "abs" } },
    { name = "only 10", at = { "p alone", 10 },
      attention = { similarity = "taylor", order = 10, orders = { 10 }, denominator = "abs" } },
  },

  measure = { "series" },
  plot = { by = "order p" },
  seeds = { 1, 2, 3 },
  margin = 0.02,
  expect = {
    { arm = "softmax", measure = "series", shows = "falls" },
    { arm = "softmax", measure = "series", shows = "even_positive" },
    { arm = "softmax", measure = "series", shows = "alone_worse" },
    { arm = "up to 2", versus = "softmax", equal_within = 0.05 },
    { arm = "up to 10", versus = "softmax", equal_within = 0.02 },
    { arm = "only 2", versus = "softmax", worse = true },
    { arm = "only 1", versus = "only 2", worse = true },
  },

  quick = { seeds = { 1 }, ["train.steps"] = 80, ["train.warmup_steps"] = 10, ["train.eval_interval"] = 20,
            ["train.eval_windows"] = 32, ["train.batch_size"] = 8, ["train.checkpoint_interval"] = 40,
            ["model.context"] = 48, ["model.width"] = 32, ["model.mlp"] = 64, ["model.heads"] = 2 },

  story = [[
What to look for:
- exp cut at even orders: by how much does the difference to softmax shrink with every two more? An even cut is positive
  everywhere, an odd one turns negative: the row's sum, which divides, can then come near 0, a likely cause of spikes and
  divergence, which is not measured here.
- One order alone, divided by the sum of its absolute values: that sum cannot change sign, at odd orders neither. Do they
  train, and how far from softmax?
- The trained softmax model with its exp replaced, beside the trained arms: does an error there go with a loss here? Its
  largest logit says how many orders the series needs before its terms fall.]],

  next = "./lab run experiments/recurrent_softmax.lua     (what state the orders need)",
}
