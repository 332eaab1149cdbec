-- JSON: exact numbers, sorted keys, arrays and objects, refusals that name the place.
local T = ...
local json = require("attnlab.core").json

T.test("scalars", function()
  T.eq(json.encode(true), "true")
  T.eq(json.encode(1), "1")
  T.eq(json.encode(9007199254740993), "9007199254740993")
  T.eq(json.encode(math.mininteger), "-9223372036854775808")
  T.eq(json.encode(0.1), "0.10000000000000001")
  T.eq(json.encode(2.0), "2.0")
  T.eq(json.encode("a\"\n\u{e9}\0b"), '"a\\"\\n\u{e9}\\u0000b"')
  T.eq(json.encode(json.null), "null")
end)

T.test("keys are sorted, arrays and empty tables are told apart", function()
  T.eq(json.encode {b = 1, a = {3, 2}, c = {}}, '{"a":[3,2],"b":1,"c":{}}')
  T.eq(json.encode {x = json.array {}}, '{"x":[]}')
  T.eq(json.encode(json.array {1}), "[1]")
  T.eq(json.encode({a = 1}, {pretty = true}), '{\n  "a": 1\n}')
end)

T.test("numbers come back as they were", function()
  for _, x in ipairs {0.1, 1e-300, 1 / 3, -2.5e17, math.maxinteger, math.mininteger, 0, 5e-324} do
    local y = json.decode(json.encode(x))
    T.eq(y, x)
    T.eq(math.type(y), math.type(x))
  end
end)

T.test("decoding", function()
  local v = json.decode '{"a":[1,2.5,"x",null,true],"b":{"c":[]}}'
  T.eq(v.a[1], 1)
  T.eq(math.type(v.a[1]), "integer")
  T.eq(v.a[2], 2.5)
  T.eq(v.a[4], json.null)
  T.eq(#v.a, 5)
  T.eq(json.encode(v), '{"a":[1,2.5,"x",null,true],"b":{"c":[]}}')
  T.eq(json.decode '"\\u0000"', "\0")
end)

T.test("what JSON cannot hold is refused by name", function()
  T.raises(function() json.encode {model = {scale = 0 / 0}} end,
           "json: model%.scale: JSON has no nan")
  T.raises(function() json.encode {a = {1, math.huge}} end, "json: a%[2%]: JSON has no inf")
  T.raises(function() json.encode {f = print} end, "json: f: a function has no JSON form")
  T.raises(function() json.encode {a = {1, nil, 3}} end, "json: a: keys are strings")
  T.raises(function() json.encode {1, 2, x = 3} end, "keys are strings")
  T.raises(function() json.encode {s = "\xff"} end, "json: s: the text is not UTF%-8")
  T.raises(function() json.encode {["\xff"] = 1} end, "UTF%-8")
  T.raises(function() json.encode(json.array {a = 1}) end, "marked as an array")
  local loop = {}
  loop.loop = loop
  T.raises(function() json.encode(loop) end, "nested deeper than 200")
  T.raises(function() json.encode({}, {prety = true}) end, "the only option is 'pretty'")
end)

T.test("bad text names line and column", function()
  T.raises(function() json.decode '{"a": 1,\n "b": }' end, "json: line 2, column")
  T.raises(function() json.decode '{"a":1,"a":2}' end, "duplicate")
  T.raises(function() json.decode "[1] x" end, "json: line 1")
  T.raises(function() json.decode "" end, "json: line")
  T.raises(function() json.decode "123456789012345678901234567890" end, "too big integer")
  T.raises(function() json.decode "1e999" end, "overflow")
  T.raises(function() json.decode "[NaN]" end, "json: line 1")
  T.raises(function() json.decode(("["):rep(5000)) end, "json: line 1")
end)
