local lab = require "attnlab"

return lab.experiment {
  name = "denominator",
  title = "What does softmax's denominator do?",
  question = "What does softmax's denominator do?  softmax = exp of the scores, divided by their sum over the row.\n"
    .. "The arms keep exp and change what stands below it, or keep the sum and change exp.",
  source = "Mongaras and Larson, On the Expressiveness of Softmax Attention, arXiv 2507.23632, sections 4.1 to 4.5",

  base = {
    model = { layers = 2, width = 128, heads = 4, mlp = 256, context = 256 },
    train = { data = "shakespeare", steps = 400, batch_size = 16, lr = 3e-3, betas = { 0.9, 0.99 }, warmup_steps = 40,
              schedule = "linear", min_lr = 0, grad_clip = 1, eval_interval = 20, eval_windows = 96,
              checkpoint_interval = 100 },
  },

  -- exp without a sum has to be kept from overflowing: the arms that keep a bare exp clamp the scores
  -- at 5, as the authors do. exp + L2 needs no clamp: the row maximum cancels in the norm. The cosine
  -- divides its rows, as the other arms do, by n^sigmoid(m) with m learned.
  arms = {
    { name = "softmax" },
    { name = "softmax + L2", ["attention.output_norm"] = "l2" },
    { name = "exp", ["attention.denominator"] = "none", ["attention.logit_clamp"] = 5 },
    { name = "exp + L2", ["attention.denominator"] = "none", ["attention.output_norm"] = "l2" },
    { name = "softmax + rms", ["attention.output_norm"] = "rms" },
    { name = "exp / length", ["attention.denominator"] = "length", ["attention.logit_clamp"] = 5 },
    { name = "exp / length + output gate", ["attention.denominator"] = "length", ["attention.logit_clamp"] = 5,
      ["attention.output_gate"] = "sigmoid" },
    { name = "exp, denominator's gradient stopped", ["attention.denominator.gradient"] = "stopped",
      ["attention.logit_clamp"] = 5 },
    { name = "linear, relu", ["attention.preset"] = "p1/linear_relu" },
    { name = "linear, elu + 1", ["attention.preset"] = "p1/linear_elu" },
    { name = "cosine, learned length", ["attention.preset"] = "p1/linear_cosine",
      ["attention.denominator.side"] = "row" },
  },

  seeds = { 1, 2, 3 },
  margin = 0.01,
  expect = {
    { arm = "exp + L2", versus = "softmax + L2", one_function = 1e-5 },
    { arm = "exp + L2", versus = "softmax + L2", equal_within = 0.01 },
    { arm = "softmax + L2", versus = "softmax", better = true },
    { arm = "exp / length", versus = "softmax", worse = true },
    { arm = "exp / length + output gate", versus = "exp / length", better = true },
    { arm = "exp, denominator's gradient stopped", diverges = true },
    { arm = "linear, relu", versus = "softmax", worse = true },
    { arm = "linear, elu + 1", versus = "softmax", worse = true },
    { arm = "cosine, learned length", versus = "softmax", worse = true },
  },

  -- What it judges pointed right in each of ten disjoint triples of seeds (README.md).
  quick = {
    arms = { "softmax", "softmax + L2", "exp", "exp + L2", "exp / length", "linear, elu + 1" },
    ["model.width"] = 64, ["model.mlp"] = 128, ["model.context"] = 64, ["train.steps"] = 200, ["train.warmup_steps"] = 20,
    ["train.eval_windows"] = 64, ["train.checkpoint_interval"] = 50,
    expect = {
      { arm = "exp + L2", versus = "softmax + L2", one_function = 1e-5 },
      { arm = "exp + L2", versus = "softmax + L2", equal_within = 0.01 },
      { arm = "exp", versus = "softmax", worse = true },
      { arm = "exp / length", versus = "softmax", worse = true },
      { arm = "linear, elu + 1", versus = "softmax", worse = true },
    },
  },

  story = [[
What to look for:
- exp + L2 against softmax + L2, and both against softmax. A positive factor cancels in the norm, so that the first two
  are one function on paper: what parts them is rounding, grown by training. What parts them from softmax is the norm.
- exp / length against softmax: does it have to be the row's own sum that divides? And with a learned gate on the output?
- The denominator's gradient stopped: its values are those of softmax (clamped). What differs, divergence too, comes of
  the gradient alone.
- The linear kernels: relu and elu + 1 have a denominator and no exp. Their distance to softmax is what another kernel
  costs, with all else equal.]],

  next = "./lab train attention.denominator.power=0.5     (half a denominator: between exp and softmax?)",
}
