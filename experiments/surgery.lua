local lab = require "attnlab"

return lab.study {
  name = "surgery",
  kind = "surgery",
  title = "What a trained softmax model loses when one part of its attention is replaced",
  question = "What does a trained softmax model lose when one part of its attention is replaced?\n"
    .. "exp by its series, the denominator by another, a norm behind it: layer by layer, raw and calibrated\n"
    .. "(one constant a head that brings the rms of its output back).",
  source = "Mongaras and Larson, On the Expressiveness of Softmax Attention, arXiv 2507.23632, as an operation on trained models",

  cases = {
    { model = { experiment = "denominator", arm = "softmax", seed = 1 }, data = "shakespeare",
      orders = { 1, 2, 3, 4, 6, 8, 12, 16 },
      denominators = { "none", "length", "l2", { stat = "sum", power = 0.5 } },
      norms = { "l2", "rms", "layer" },
      others = { { name = "exp + L2", denominator = "none", output_norm = "l2" } },
      calibrate = { false, true }, windows = 24, prompt = "ROMEO:\n", tokens = 120 },
    { model = { file = "stories260K" }, data = "own", context = 256,
      orders = { 1, 2, 3, 4, 6, 8, 12, 16 },
      denominators = { "none", "length", "l2", { stat = "sum", power = 0.5 } },
      norms = { "l2", "rms", "layer" },
      others = { { name = "exp + L2", denominator = "none", output_norm = "l2" } },
      calibrate = { false, true }, windows = 24, prompt = "Once upon a time", tokens = 100 },
  },
  seeds = { 1 },

  expect = {
    { kl_falls = 2 },
    { swap = "norm l2", calibrated_better = true },
    { swap = "denominator length", calibrated_better = true },
  },

  quick = {
    cases = {
      { model = { experiment = "denominator", arm = "softmax", seed = 1, quick = true }, data = "shakespeare",
        orders = { 2, 4 }, denominators = { "length" }, norms = { "l2" },
        calibrate = { false, true }, windows = 8, prompt = "ROMEO:\n", tokens = 40 },
      { model = { file = "stories260K" }, data = "own", context = 128, layers = "all",
        orders = { 2, 4 }, denominators = { "length" }, norms = { "l2" },
        calibrate = { false, true }, windows = 8, prompt = "Once upon a time", tokens = 40 },
    },
  },

  next = "./lab repl     then  m = lab.model.load \"experiments/models/stories260K.bin\"  s = m:fork()",
}
