-- attnlab.plot: axes, quoting, and figures that gnuplot draws.
local T = ...
local axes = require "attnlab.axes"
local plot = require "attnlab.plot"
local sys = require("attnlab.core").sys

local function figure(n)
  local fig = { title = "it's a \"title\" `date` $x", ylabel = "validation loss", xlabel = "step", reference = "arm 1",
                margin = 0.01, forest_label = "mean", profile_title = "row sum", profile_label = "position",
                curves = {}, forest = {}, profile = {} }
  for i = 1, n do
    local points = {}
    for s = 20, 200, 20 do points[#points + 1] = { s, 2 + i / s, 1.99 + i / s, 2.01 + i / s } end
    fig.curves[i] = { name = "arm " .. i, points = points, diverged = i == 3 and 200 or nil }
    if i > 1 then
      fig.forest[i - 1] = { name = "arm " .. i, index = i, values = { i * 0.01, i * 0.012 }, mean = i * 0.011,
                            lo = -0.5, hi = 40, text = "x" }
    end
    fig.profile[i] = { index = i, values = { 0.1 * i, 0.5, 1, 1.2 } }
  end
  return fig
end

local PNG = { { "pngcairo size 600,300", "out.png" } }

T.test("names are quoted so that nothing in them acts", function()
  T.eq(plot.quote "a'b", "'a''b'")
  T.eq(plot.quote "a\nset output 'x'", "'a set output ''x'''")
  local fig = figure(2)
  fig.curves[2].name = "'; system('touch hacked'); '"
  local script = plot.script(fig, PNG)
  T.ok(script:find("'''; system(''touch hacked''); '''", 1, true))
end)

T.test("every arm has its own pair of colour and dash", function()
  local seen, n = {}, 0
  for style in plot.script(figure(12), PNG):gmatch "nohead (lc rgb %S+ dt %S+) lw 2.2" do
    T.ok(not seen[style], "used once")
    seen[style], n = true, n + 1
  end
  T.eq(n, 12)
end)

-- A figure of so many arms in cells of five, as figures.lua makes it.
local function in_cells(n)
  local fig = figure(n)
  fig.groups = {}
  for i = 2, n do
    local g = (i - 2) // 5 + 1
    fig.groups[g] = fig.groups[g] or { name = "cell " .. g }
    table.insert(fig.groups[g], i)
    fig.curves[i].colour, fig.curves[i].dash = #fig.groups[g] + 1, g
  end
  return fig
end

T.test("21 arms are told apart: no two share colour and dash, and no cell has a colour twice", function()
  local script, seen, n = plot.script(in_cells(21), PNG), {}, 0
  for style in script:gmatch "nohead (lc rgb %S+ dt %S+) lw 2.2" do
    T.ok(not seen[style], "used once: " .. style)
    seen[style], n = true, n + 1
  end
  T.eq(n, 21)
  local cells = 0
  for drawn in script:gmatch "\nplot (.-notitle)\n" do
    local colours, others = {}, select(2, drawn:gsub("c8c8c8", ""))
    if others > 0 then
      cells = cells + 1
      T.eq(others, 21 - 6)
      for colour in drawn:gmatch "with lines lc rgb '(%S+)' dt %S+ lw 2.2" do
        T.ok(not colours[colour], colour)
        colours[colour] = true
      end
    end
  end
  T.eq(cells, 4)
end)

T.test("ticks of the loss axis", function()
  for _, range in ipairs { { 1.8, 4.2 }, { 1, 1000 }, { 0.011, 0.5 }, { 1.8, 2.1 } } do
    local ticks = axes.log_ticks(range[1], range[2])
    T.ok(#ticks >= 3 and #ticks <= 12, "a readable number")
    for _, v in ipairs(ticks) do T.ok(v >= range[1] * 0.999 and v <= range[2] * 1.001) end
  end
end)

T.test("the difference axis is odd, increasing and labelled truly", function()
  local map, ticks = axes.difference(0.01, -0.1, 0.6)
  T.eq(map(0), 0)
  T.near(map(-0.2), -map(0.2), 1e-12)
  T.ok(map(0.01) < map(0.02) and map(0.02) < map(0.5))
  table.sort(ticks)
  T.ok(ticks[1] >= -0.1 and ticks[#ticks] <= 0.6)
end)

T.test("labels of the difference axis stay apart", function()
  for _, case in ipairs { { 0.02, -0.34, 2.4 }, { 0.02, -0.1, 0.1 }, { 0.01, -0.1, 0.6 }, { 0.001, -3, 0.002 }, { 0.0025, -0.01, 0.01 } } do
    local map, ticks = axes.difference(table.unpack(case))
    table.sort(ticks)
    T.ok(#ticks > 1)
    for i = 2, #ticks do
      local a, b = ticks[i - 1], ticks[i]
      -- a character of that font is a fiftieth of the panel wide
      local room = (#("%g"):format(a) + #("%g"):format(b)) / 2 / 50
      T.ok((map(b) - map(a)) / (map(case[3]) - map(case[2])) > room, ("%g beside %g"):format(a, b))
    end
  end
end)

T.test("what has to be known stands below the legend, and moves nothing where there is nothing", function()
  local fig = figure(2)
  local bare = plot.script(fig, PNG)
  fig.notes = { "it's (a)", "and (b)" }
  local script = plot.script(fig, PNG)
  local first, second = script:match "'it''s %(a%)' at screen 0.05, screen (%S+) .-'and %(b%)' at screen 0.05, screen (%S+)"
  local legend = script:match "'arm 2' at screen %S+, screen (%S+)"
  T.ok(tonumber(legend) > tonumber(first) + 0.03 and tonumber(first) > tonumber(second) + 0.02, script)
  T.ok(tonumber(bare:match "'arm 2' at screen %S+, screen (%S+)") < 0.05)
end)

local function draws(fig)
  local dir = T.folder()
  local figures, why = plot.draw(fig, dir)
  if not figures and why:find "cannot be started" then return end -- no gnuplot here: the message was clear
  T.ok(figures, why)
  T.ok(sys.size(figures.png) > 5000)
  T.ok(sys.read(figures.svg):find "</svg>")
  T.eq(sys.exists(dir .. "/figure.log"), nil)
end

T.test("gnuplot draws twelve arms without a word", function() draws(figure(12)) end)

T.test("gnuplot draws 13, 21 and 40 arms in cells without a word", function()
  for _, n in ipairs { 13, 21, 40 } do draws(in_cells(n)) end
end)

-- Width and height of the first page in inches.
local function page(path)
  local w, h = sys.read(path):match "MediaBox%s*%[%s*0%s+0%s+([%d.]+)%s+([%d.]+)"
  return tonumber(w) / 72, tonumber(h) / 72
end

T.test("a PDF for a paper, whole or one panel, has the width that was asked for", function()
  local dir = T.folder()
  for _, fig in ipairs { figure(6), in_cells(21), figure(1) } do
    for _, panel in ipairs { "a", "b", "c" } do
      local path, why = plot.draw_pdf(fig, dir, panel, 3.3)
      if not path and why:find "cannot be started" then return end -- no gnuplot here
      T.ok(path and path:find("/figure%-" .. panel .. "%.pdf$"), why)
      T.near(page(path), 3.3, 0.02)
      T.eq(sys.exists(dir .. "/figure-" .. panel .. ".log"), nil)
    end
    local whole = plot.draw_pdf(fig, dir)
    T.near(page(whole), 10, 0.02)
  end
end)

T.test("the labels of a panel's axis stay apart in a paper, too", function()
  for _, case in ipairs { { 0.02, -0.34, 2.4 }, { 0.01, -0.1, 0.6 }, { 0.0025, -0.01, 0.01 } } do
    local map, ticks = axes.difference(case[1], case[2], case[3], 2.2)
    table.sort(ticks)
    for i = 2, #ticks do
      local room = (#("%g"):format(ticks[i - 1]) + #("%g"):format(ticks[i])) / 2 / 25
      T.ok((map(ticks[i]) - map(ticks[i - 1])) / (map(case[3]) - map(case[2])) > room, ("%g beside %g"):format(ticks[i - 1], ticks[i]))
    end
  end
end)

T.test("gnuplot draws an experiment with nothing in it yet", function()
  local fig = figure(3)
  for _, c in ipairs(fig.curves) do c.points = {} end
  for _, r in ipairs(fig.forest) do r.values, r.mean, r.lo, r.hi, r.note = {}, nil, nil, nil, "failed" end
  fig.profile = {}
  draws(fig)
end)

T.test("gnuplot draws what runs of any kind may hold: losses of 0, below it, past all bounds", function()
  local fig, odd = figure(5), { 0, -3, 1e308, 1e-320 }
  for i, v in ipairs(odd) do
    fig.curves[i + 1].points[3] = { 60, v, v, v }
    fig.forest[i].values, fig.forest[i].mean, fig.forest[i].lo, fig.forest[i].hi = { v, -v }, v, -v, math.abs(v)
  end
  for _, p in ipairs(fig.curves[5].points) do p[2], p[3], p[4] = 0, 0, 0 end
  draws(fig)
end)

T.test("gnuplot draws any margin that a file may give", function()
  for _, margin in ipairs { 0, 5e-324, 1e-200, 1e308 } do
    local fig = figure(3)
    fig.margin = margin
    T.ok(not plot.script(fig, PNG):find "[%[: ]%-?inf" and not plot.script(fig, PNG):find "[%[: ]%-?nan", margin)
    draws(fig)
  end
end)

T.test("gnuplot draws panels of points from end to end of the numbers", function()
  local panels = require "attnlab.panels"
  for _, log in ipairs { false, true } do
    for _, points in ipairs { { { -1e308, 1 }, { 1e308, 2 } }, { { 1, 1e308 }, { 2, -1e308 } }, { { 1e-320, 1e308 }, { 1e308, 1e-320 } },
                              { { 1, 2, low = -1, high = 1 / 0 }, { 2, 3, low = 0 / 0, high = 4 } }, { { 5e-324, 5e-324 } },
                              { { 1, 1 }, { 1 + 1e-15, 1 + 1e-15 } } } do
      local fig = { title = "t", legend = {}, panels = { { title = "p", xlabel = "x", ylabel = "y", logx = log, logy = log,
        curves = { { points = points, marks = true } } } } }
      local script = panels.script(fig, PNG)
      T.ok(not script:find "[%[: (]%-?inf" and not script:find "[%[: (]%-?nan", script)
      local dir = T.folder()
      local drawn, why = panels.draw(fig, dir, "by")
      T.ok(drawn or why:find "cannot be started", why)
    end
  end
end)

T.test("gnuplot draws one arm, one point, one seed", function()
  local fig = figure(1)
  fig.curves[1].points = { { 30, 2.5, 2.5, 2.5 } }
  fig.margin = nil
  draws(fig)
end)

T.test("a missing gnuplot is a message", function()
  local path = os.getenv "PATH"
  sys.setenv("PATH", "/nowhere")
  local figures, why = plot.draw(figure(2), T.folder())
  sys.setenv("PATH", path)
  T.eq(figures, nil)
  T.ok(why:find "gnuplot%-nox")
end)

T.test("a figure that is only half there is not shown as drawn", function()
  local path, bin, dir = os.getenv "PATH", T.folder(), T.folder()
  sys.write(bin .. "/gnuplot", ([[
#!/bin/sh
cd '%s' || exit 1
printf half >figure.png.$PPID.part
: >figure.svg.$PPID.part
read -r _ _ _ _ group _ </proc/$$/stat
[ "$group" = $$ ] && : >apart
]]):format(dir))
  os.execute("chmod +x '" .. bin .. "/gnuplot'")
  sys.setenv("PATH", bin .. ":" .. path)
  local figures, why = plot.draw(figure(2), dir)
  sys.setenv("PATH", path)
  T.eq(figures, nil)
  T.ok(why:find "only in part", why)
  T.eq(sys.exists(("%s/figure.png.%d.part"):format(dir, sys.pid())), nil)
  T.eq(sys.exists(dir .. "/apart"), "file") -- Ctrl-C and kill -- -GROUP do not reach it
end)

T.test("parts that a killed process left are removed by the next one, those of the living are not", function()
  local dir = T.folder()
  local gone = sys.spawn { "true" }
  sys.wait(gone)
  local living = sys.spawn { "sleep", "60" }
  for _, name in ipairs { "figure.png.%d.part", "figure.svg.%d.part", "by.png.%d.part" } do
    sys.write(dir .. "/" .. name:format(gone), "")
    sys.write(dir .. "/" .. name:format(living), "")
  end
  sys.write(dir .. "/figure.png.x.part", "")
  local figures, why = plot.draw(figure(2), dir)
  sys.kill(living, 9)
  sys.wait(living)
  T.ok(figures, why)
  local parts = {}
  for _, name in ipairs(sys.list(dir)) do parts[#parts + 1] = name:match "%.part$" and name end
  local want = { ("by.png.%d.part"):format(gone), ("by.png.%d.part"):format(living), ("figure.png.%d.part"):format(living),
                 "figure.png.x.part", ("figure.svg.%d.part"):format(living) }
  table.sort(want)
  T.eq(parts, want)
end)

T.test("a figure that failed is told from one that cannot be drawn here, and leaves nothing", function()
  local path, bin, dir = os.getenv "PATH", T.folder(), T.folder()
  sys.write(bin .. "/gnuplot", ("#!/bin/sh\n: >'%s'/figure.png.$PPID.part\necho no luck\nexit 3\n"):format(dir))
  os.execute("chmod +x '" .. bin .. "/gnuplot'")
  for _ = 1, 2 do
    sys.setenv("PATH", bin .. ":" .. path)
    local figures, why, broken = plot.draw(figure(2), dir)
    sys.setenv("PATH", "/nowhere")
    local _, _, nowhere = plot.draw(figure(2), dir)
    sys.setenv("PATH", path)
    T.eq({ figures == nil, why, broken }, { true, "gnuplot failed (exited 3): no luck", true })
    T.eq(nowhere, nil)
  end
  for _, name in ipairs(sys.list(dir)) do T.ok(not name:find "part", name) end
end)

T.test("a title that does not fit is shortened, and stands whole in the notes", function()
  local lab = require "attnlab"
  local figures, runs, runner = require "attnlab.figures", require "attnlab.runs", require "attnlab.runner"
  local e = lab.experiment { name = "t", question = "What is it?", arms = { { name = "a" }, { name = "b", grad_clip = 2 } }, seeds = { 1 } }
  local set = {}
  for _, k in ipairs { "lr=0.01", "steps=7", "eval_interval=3", "eval_windows=9", "batch_size=3", "warmup_steps=2", "width=32", "mlp=64" } do
    set[#set + 1] = { k:match "^(.-)=(.*)$" }
  end
  local plan = e:plan { set = set }
  local fig = figures.figure(runs.gather(plan, runner.expand(plan, { root = T.folder() })))
  T.eq(fig.title, "What is it?")
  T.ok(table.concat(fig.notes, " "):find "What is it%? %[mlp=64, width=32, batch_size=3, .* steps=7.*1 seed%)", table.concat(fig.notes, "\n"))
  plan = e:plan {}
  T.ok(figures.figure(runs.gather(plan, runner.expand(plan, { root = T.folder() }))).title:find "^What is it%?   %(2 layers")
end)
