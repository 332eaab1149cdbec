-- The binding beside tensors: optimisers, files, tokens, vocabularies, attention.
local T = ...
local core = require "attnlab.core"
local tensor = core.tensor

T.test("optimisers", function()
  local w = tensor({1, 2}):requires_grad(true)
  local o = core.optim("sgd", {momentum = 0.5})
  o:add("w", w, false)
  w:sum():backward()
  T.near(o:step(0.1), math.sqrt(2))
  T.near(w, {0.9, 1.9})
  T.eq(o:steps(), 1)
  T.eq(o:state()["m.w"]:flat(), {1, 1})
  o:zero_grad()
  T.eq(w:grad(), nil)
  o:steps(7)
  T.eq(o:steps(), 7)
  T.raises(function() core.optim "adamm" end, "adamw")
  T.raises(function() core.optim("adamw", {beta = {0.9, 0.95}}) end,
           "bad argument #2 to 'optim' %(unknown option 'beta' %(did you mean 'betas'%?%)")
  T.raises(function() core.optim("adamw", {betas = {0.9, 1.5}}) end, "option 'betas'")
  T.raises(function() o:add("w", w) end, "added twice")
  T.raises(function() o:add("v", w * 2) end, "leaf")
  T.raises(function() o:step(-1) end, "learning rate")
  T.eq(core.optim_options("adamw")[1].name, "betas")
end)

T.test("safetensors", function()
  local path = T.folder() .. "/x.safetensors"
  local t = {w = core.randn {shape = {3, 2}, seed = 1}, ids = tensor {data = {1, -2}, dtype = "i32"}, b = tensor({0.5}):to "bf16",
             d = core.zeros {shape = {}, dtype = "f64"}}
  core.safetensors.save(path, t, {step = "7", note = "\u{e9}"})
  local u, meta = core.safetensors.open(path)
  T.eq(u, t)
  T.eq(meta.step, "7")
  T.eq(meta.note, "\u{e9}")
  T.raises(function() core.safetensors.save(path, {w = 1}) end,
           "bad argument #2 to 'save' %('w': tensor expected, got number%)")
  T.raises(function() core.safetensors.save(path, t, {step = 7}) end,
           "'step': string expected, got number")
  T.raises(function() core.safetensors.save(path, {tensor {1}}) end, "names expected as keys")
  T.raises(function() core.safetensors.open(path .. "x") end, "x.safetensorsx.*No such file")
  core.sys.write(path, "junk")
  T.raises(function() core.safetensors.open(path) end, "x.safetensors")
end)

T.test("safetensors: tensors of other types are listed and stand in nobody's way", function()
  local path = T.folder() .. "/foreign.safetensors"
  local header = '{"__metadata__":null,"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    .. '"ids":{"dtype":"I64","shape":[1,2],"data_offsets":[8,24]},'
    .. '"mask":{"dtype":"BOOL","shape":[],"data_offsets":[24,25]},'
    .. '"f8":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[25,28]},'
    .. '"u8":{"dtype":"U8","shape":[0],"data_offsets":[28,28]},'
    .. '"i16":{"dtype":"I16","shape":[2],"data_offsets":[28,32]},'
    .. '"deep":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[32,36]}}'
  core.sys.write(path, string.pack("<I8", #header) .. header .. string.pack("<ff", 1.5, -2) .. ("\0"):rep(28))
  local t, metadata, listed = core.safetensors.open(path)
  T.eq(t.x:flat(), {1.5, -2})
  T.eq(next(t, next(t)), nil)
  T.eq(metadata, {})
  local seen = {}
  for name, d in pairs(listed) do seen[name] = d.type .. " " .. table.concat(d.shape, ",") end
  T.eq(seen, {ids = "I64 1,2", mask = "BOOL ", f8 = "F8_E4M3 3", u8 = "U8 0", i16 = "I16 2", deep = "F32 1,1,1,1,1,1,1,1,1"})
  T.raises(function() return t.ids end, "foreign.safetensors: tensor 'ids': F64, F32, BF16, F16 or I32 needed, got I64")
  T.raises(function() return t.f8 end, "'f8'.*got F8_E4M3")
  T.raises(function() return t.deep end, "'deep': at most 8 axes possible, got 9")
  T.eq(t.other, nil)
end)

T.test("windows of tokens", function()
  local ids = {}
  for i = 1, 100 do ids[i] = i - 1 end
  local tokens = tensor {data = ids, dtype = "i32"}
  local x, y = core.windows_random(tokens, {batch = 3, context = 5, seed = 1, index = 2})
  T.eq(x:shape(), {3, 5})
  for i, id in ipairs(y:flat()) do T.eq(id, x:flat()[i] + 1) end
  T.eq(x, (core.windows_random(tokens, {lo = 0, hi = 100, batch = 3, context = 5, seed = 1, index = 2})))
  local e = core.windows_even(tokens, {lo = 50, hi = 100, batch = 2, context = 5, first = 0, total = 4})
  T.eq(e:totable()[1][1], 50)
  T.raises(function() core.windows_random(tokens, {batch = 3, context = 5, index = 0}) end,
           "bad argument #2 to 'windows_random' %(option 'seed' is missing%)")
  T.raises(function() core.windows_random(tokens, {batch = 1, context = 100, seed = 1, index = 0}) end)
  T.raises(function() core.windows_even(tokens, {batch = 1, context = 5, totl = 3}) end,
           "did you mean 'total'")
  T.raises(function() core.windows_even({}, {}) end, "tensor expected, got table")
end)

T.test("vocabularies", function()
  local v = core.vocab.new("characters", {{"text", "hello"}})
  T.eq(v:size(), 4)
  local ids = v:encode "hole"
  T.eq(ids:dtype(), "i32")
  T.eq(v:decode(ids), "hole")
  T.eq(v:decode(ids:totable()), "hole")
  T.eq(v:piece(0), "e")
  T.raises(function() v:encode "x" end, "x")
  T.raises(function() v:decode {9} end)
  T.eq({v:piece(4), v:piece(-1), v:id "x", v:id "hole", v:known "bos"}, {})
  T.eq(v:id "e", 0)
  T.raises(function() v:decode(tensor {1}) end, "i32 needed, got f32")
  T.raises(function() core.vocab.new("characters", {{"text", ""}}) end)
  T.raises(function() core.vocab.new("llama2c", {{"a/table", "x"}}) end, "a/table: ends in piece 0")
  T.raises(function() core.vocab.new("llama2d", {}) end, "unknown kind 'llama2d'")
  for _, files in ipairs {{1}, {{}}, {{"x"}}, {{1, "x"}}} do
    T.raises(function() core.vocab.new("characters", files) end, "{{name, bytes}, ..} expected")
  end
end)

T.test("plans and states of any number of tokens", function()
  for _, f in ipairs(core.attn.families()) do
    local a = core.attn.new(f.name, {}, {heads = 65536, head_dim = 4, value_dim = 65536, width = 1})
    for _, n in ipairs {2^31, 2^53, 2^62, math.maxinteger} do
      n = math.tointeger(n)
      T.ok(not a:plan(n):find "%-%d", a:plan(n))
      T.ok(a:state_bytes(n) >= a:state_bytes(1), "no fewer bytes for more tokens: it")
    end
  end
  T.raises(function() core.attn.new("softmax", {}, {heads = 65537, head_dim = 4}) end, "65536")
end)

T.test("attention", function()
  local list = core.attn.list()
  T.ok(#list > 0)
  for _, p in ipairs(list) do
    T.ok(#core.attn.describe(p.name) > 0)
    T.ok(p.name and p.family and p.source and p.note and p.layer)
  end
  local name = list[1].name
  T.raises(function() core.attn.describe(name .. "x") end, "did you mean")
  T.raises(function() core.attn.options "nothing/like/it" end, "nothing/like/it")
  local rows = core.attn.options ""
  local record
  for _, r in ipairs(rows) do
    T.ok(r.name and r.type and r.doc and r.default, r.name)
    if r.fields then record = r end
  end
  T.ok(record.fields[1].value ~= nil)
  local sizes = {heads = 2, head_dim = 4, width = 8, seed = 1, dtype = "f64"}
  local function inputs(B, S)
    local shape = {B, S, 2, 4}
    return {q = core.randn {shape = shape, seed = 1, stream = "q", dtype = "f64"},
            k = core.randn {shape = shape, seed = 1, stream = "k", dtype = "f64"},
            v = core.randn {shape = shape, seed = 1, stream = "v", dtype = "f64"},
            x = core.randn {shape = {B, S, 8}, seed = 1, stream = "x", dtype = "f64"}, causal = true}
  end
  for _, p in ipairs(list) do
    local a = core.attn.new(p.name, nil, sizes)
    local o = a:forward(inputs(2, 5))
    T.eq(o:shape(), {2, 5, 2, 4})
    T.eq(a:family(), p.family)
    T.eq(a:layer(), p.layer)
    T.ok(a:state_bytes(10) >= 0)
    T.ok(type(a:plan(10)) == "string")
    T.raises(function() a:plan(0) end, "at least 1")
    T.ok(type(a:claims()) == "table")
    local b = core.attn.new(p.name, nil, sizes)
    for n, t in pairs(a:parameters()) do
      T.ok(t:requires_grad())
      T.eq(b:parameters()[n], t)
      b:set_parameter(n, t)
    end
    T.eq(b:forward(inputs(2, 5)), o)
    local in_ = inputs(2, 5)
    in_.lengths = {5, 3}
    T.eq(a:forward(in_):shape(), {2, 5, 2, 4})
  end
  local a = core.attn.new("", {}, sizes)
  T.eq(a:text(), "")
  T.ok(#a:text(true) > 0)
  T.raises(function() a:forward {} end,
           "bad argument #1 to 'forward' %(q: tensor %(B,T,H,D%) expected, got nil%)")
  T.raises(function()
    local i = inputs(1, 3)
    i.casual = true
    a:forward(i)
  end, "unknown option 'casual' %(did you mean 'causal'%?%)")
  T.raises(function()
    local i = inputs(1, 3)
    i.lengths = {1.5}
    a:forward(i)
  end, "an i32 expected, got 1.5")
  T.raises(function()
    local i = inputs(1, 3)
    i.k = inputs(1, 4).k
    a:forward(i)
  end, "%(1,4,2,4%)")
  T.raises(function() a:set_parameter("nothing", tensor {1}) end, "no parameter 'nothing'")
  T.raises(function() core.attn.new("", {}, {heads = 2, head_dim = 4, head = 3}) end,
           "unknown option 'head'")
  T.raises(function() core.attn.new("", {[rows[1].name .. "x"] = 1}, sizes) end,
           "bad argument #2 to .*did you mean '" .. rows[1].name)
  T.raises(function() core.attn.new("", {[record.name] = {[record.fields[1].name .. "x"] = 1}}, sizes) end,
           "unknown option '" .. record.name .. "%." .. record.fields[1].name .. "x' %(did you mean '" .. record.fields[1].name)
  T.raises(function() core.attn.new("", {1, 2}, sizes) end,
           "bad argument #2 to .*names expected as keys of the table, got a number")
  T.raises(function() core.attn.new("", {[record.name] = {1}}, sizes) end,
           "option '" .. record.name .. "': names expected as keys")
end)

T.test("llama2.c models", function()
  local c, tensors = core.llama2c(T.root .. "experiments/models/stories260K.bin")
  T.eq(c.dim, 64)
  T.eq(c.vocab_size, 512)
  T.eq(type(c.tied), "boolean")
  T.eq(tensors["model.embed_tokens.weight"]:shape(), {512, 64})
  local v = core.vocab.new("llama2c", {{"tok512.bin", core.sys.read(T.root .. "experiments/models/tok512.bin")}})
  T.ok(v:decode(v:encode "Once upon a time"):find "Once upon a time")
  T.raises(function() core.llama2c "/no/such/model.bin" end, "/no/such/model.bin")
end)

T.test("nothing is left over", function()
  collectgarbage()
  collectgarbage()
  T.eq(core.memory().live, 0)
end)
