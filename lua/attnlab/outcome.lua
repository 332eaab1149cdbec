-- What an experiment's runs came to, on the terminal and in the folder of its results.
-- A change here makes no run stale.
local core = require "attnlab.core"
local figures = require "attnlab.figures"
local names = require "attnlab.names"
local report = require "attnlab.report"
local runs = require "attnlab.runs"
local tables = require "attnlab.table"
local words = require "attnlab.words"
local sys = core.sys

local M = {}

-- Table and figures of a result into their folder. Returns whether all could be made and the lines that say where
-- they are; a machine without gnuplot has no figures.
local function write_results(result, dir)
  sys.mkdir(dir)
  report.write(result, dir)
  local figure, why, broken = figures.draw(result, dir)
  local by, why_by, by_broken = figures.draw_by(result, dir)
  local lines = { ("table   %s/table.txt (.tsv .json .tex; what the columns mean)"):format(names.shown(dir)),
                  figure and ("figure  %s (.svg)"):format(figure.png) or "figure  none: " .. why }
  if by or why_by then lines[3] = by and ("        %s (.svg)"):format(by.png) or "figure  none: " .. why_by end
  return not broken and not by_broken, table.concat(lines, "\n")
end

-- Table, judged expectations and figures of the plan's runs: shown first, as the folder may not take them. options: json,
-- legend (what the columns mean). Returns whether all could be made.
function M.show(plan, list, root, options)
  local e, width = plan.experiment, tables.terminal()
  local result = runs.gather(plan, list)
  local dir = names.inside(root, plan.results)
  if options.json then
    local written, all_made = names.attempt("results not written", write_results, result, dir)
    if written then print(sys.read(dir .. "/table.json")) else words.no_value(all_made) end
    return written and all_made
  end
  local function say(text) print(tables.fit(text, width)) end
  if e.question then say("\n" .. e.question) end
  if plan.results ~= plan.name then say("Changed: " .. plan.results) end
  if e.source then say("Source: " .. e.source) end
  print("\n" .. report.table_text(result, width, options.legend))
  for _, text in ipairs { report.measures_text(result), report.judged_text(result) } do
    if text ~= "" then say("\n" .. text) end
  end
  if e.story and not plan.quick then say("\n" .. e.story) end
  local written, all_made, where = names.attempt("results not written", write_results, result, dir)
  if written then print("\n" .. where) end
  print(("runs    %s/%s/"):format(root, plan.name))
  if e.next then print("next    " .. e.next) end
  return written and all_made
end

-- The figure of the plan's runs as a PDF for a paper, or one panel of it; says where. Whether it could be drawn.
function M.show_pdf(plan, list, root, panel, width)
  local dir = names.inside(root, plan.results)
  sys.mkdir(dir)
  local path, why = figures.draw_pdf(runs.gather(plan, list), dir, panel, width)
  if not path then error(why, 0) end
  print("figure  " .. names.shown(path))
  return true
end

local SHOWN = 5 -- of the runs that are missing

-- Says what a run of an experiment did not bring about; the exit status.
function M.say_missing(missing, n)
  if #missing == 0 then return 0 end
  io.stderr:write(("%d of %d runs are missing or not measured; the same command tries them again:\n"):format(#missing, n))
  for i = 1, math.min(#missing, SHOWN) do
    local run = missing[i].run
    io.stderr:write(("  %s (%s, seed %d): %s\n"):format(names.shown(run.dir), run.name, run.seed, missing[i].why))
  end
  if #missing > SHOWN then io.stderr:write(("  and %d more\n"):format(#missing - SHOWN)) end
  return 1
end

return M
