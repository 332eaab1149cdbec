-- What is measured of a trained model beside its loss, by the name that experiments give. A measure is
-- { measure(model, config) -> numbers or nil where the arm has no such thing, gather(list over seeds) ->
-- record, text(arm, record), panel(list of {arm, record}), expect = { [name] = function(record) -> holds,
-- detail } }.
return { series = require "attnlab.series" }
