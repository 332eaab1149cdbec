local lab = require "attnlab"

return lab.study {
  name = "recurrent_softmax",
  kind = "recurrence",
  title = "Softmax as a recurrence: the series of exp cut at order p",
  question = "How large a state does softmax need when it runs as a recurrence?\n"
    .. "exp is cut at order p of its series; each order is a sum over the past of products of key channels.",
  source = "Mongaras and Larson, On the Expressiveness of Softmax Attention, arXiv 2507.23632, section 3",

  cases = {
    { head_dim = 8, scale = 0.5, orders = { 1, 2, 3, 4, 5, 6, 7, 8 } },
    { head_dim = 8, scale = 1, orders = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 } },
    { head_dim = 16, scale = 0.5, orders = { 1, 2, 3, 4, 5, 6 } },
    { head_dim = 16, scale = 1, orders = { 1, 2, 3, 4, 5, 6 } },
    { head_dim = 64, scale = 0.5, orders = { 1, 2, 3 } },
    { head_dim = 64, scale = 1, orders = { 1, 2, 3 } },
    { inputs = "stories260K", orders = { 1, 2, 3, 4, 5, 6, 7, 8 } },
  },
  seeds = { 1, 2, 3 },

  expect = {
    { forms_within = 1e-4 },
    { state_constant = true },
    { falls_from = 2 },
    { series_within = 2 },
  },

  quick = {
    seeds = { 1 },
    expect = { { forms_within = 1e-4 }, { state_constant = true }, { falls_from = 2 }, { series_within = 2 } },
    cases = {
      { head_dim = 8, orders = { 1, 2, 4, 6 }, tokens = 64 },
      { head_dim = 16, orders = { 1, 2, 4 }, tokens = 64 },
      { head_dim = 64, orders = { 1, 2 }, tokens = 64 },
      { inputs = "stories260K", orders = { 1, 2, 4, 6 }, tokens = 64 },
    },
  },

  story = [[
What to look for:
- Error against order: the remainder has the factorial of the order below it, so that two orders more should win a factor
  that grows with the order. The dashed line is what the series says.
- Error against bytes: every order multiplies the state by about (head size + p) / p. Which head size pays least for the
  same error?
- = tokens: a text has to be longer than that before the state is smaller than a key/value cache.
- The trained model's largest logit beside the orders: terms fall only where the order is above the logit, and in f32
  large monomials cancel. The parallel form sums no monomials: to parallel and to f64 tell the two apart.]],

  next = "./lab bench decode     (time and memory of a token behind short and long texts)",
}
