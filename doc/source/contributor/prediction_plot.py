# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""Draws prediction.csv, which is beside it: run by Sphinx."""

import csv
import pathlib

from matplotlib import pyplot
from matplotlib import ticker

LIMIT_MS = 3000
HERE = pathlib.Path('prediction.csv')
MARKS = {'yes': ('steered', 'o', 'tab:blue'),
         'no': ('not steered', 'x', 'tab:orange')}


def draw(axes, rows, what, unit):
    """Predicted against measured, a mark for each move."""
    names = [f'{kind} {what} {unit}' for kind in ('predicted', 'measured')]
    shown = []
    for steered, (label, marker, colour) in MARKS.items():
        points = [(float(row[names[0]]), float(row[names[1]]))
                  for row in rows
                  if row['steered'] == steered and row[names[0]]
                  and row[names[1]]]
        axes.scatter(*zip(*points, strict=True), label=label, marker=marker,
                     color=colour)
        shown += [value for point in points for value in point if value]
    ends = [min(shown) / 1.5, max(shown) * 1.5]
    axes.plot(ends, ends, color='grey', linewidth=0.8)
    axes.set(xscale='log', yscale='log', xlim=ends, ylim=ends,
             xlabel=f'predicted {what}, {unit}',
             ylabel=f'measured {what}, {unit}')
    axes.set_aspect('equal')
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter('{x:g}')
        axis.set_minor_formatter(ticker.NullFormatter())


with HERE.open(newline='') as file:
    table = list(csv.DictReader(file))
_, (left, right) = pyplot.subplots(1, 2, figsize=(10, 5),
                                   layout='constrained')
draw(left, table, 'stop-copy', 'MiB')
draw(right, table, 'downtime', 'ms')
right.axhline(LIMIT_MS, color='tab:red', linewidth=0.8, linestyle='--',
              label='limit')
right.legend()
