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

"""House rules that a linter off the shelf does not know.

Run by tools/lint. Each rule is a function of one parsed module that yields
complaints; the tree's order of imports is the one of architecture.rst.
"""

import ast
from collections.abc import Callable, Iterator
import pathlib
import subprocess
import sys

LAYERS = ('conf', 'unixcall', 'plugins', 'compatibility', 'planning', 'gpu',
          'vmm', 'migration', 'agent', 'nova', 'cli', 'status', 'cmd',
          'demo')
"""From the bottom up. A package imports from those before it."""

MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 70
EMPTY_NAMES = {'utils', 'helpers', 'common', 'misc'}
THREAD_HOSTILE = {'eventlet', 'greenlet'}

Complaints = Iterator[tuple[int, str]]


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.lineno, f'{node.module}.{alias.name}'


def layer(name: str) -> int | None:
    parts = name.split('.')
    if parts[0] != 'nova_vgpu_mig' or len(parts) < 2:
        return None
    return LAYERS.index(parts[1]) if parts[1] in LAYERS else None


def header(path: pathlib.Path, tree: ast.Module, text: str) -> Complaints:
    if text.strip() and 'Licensed under the Apache License' not in text:
        yield 1, 'no licence header'


def docstring(path: pathlib.Path, tree: ast.Module, text: str) -> Complaints:
    product = path.parts[0] == 'nova_vgpu_mig'
    if product and not ast.get_docstring(tree):
        yield 1, 'the module does not say why it exists'


def name(path: pathlib.Path, tree: ast.Module, text: str) -> Complaints:
    if path.stem in EMPTY_NAMES:
        yield 1, 'a name that says nothing'


def sizes(path: pathlib.Path, tree: ast.Module, text: str) -> Complaints:
    lines = text.count('\n')
    product = path.parts[0] == 'nova_vgpu_mig'
    if lines > (MAX_MODULE_LINES if product else 700):
        yield 1, f'{lines} lines in one module'
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno
            if length > MAX_FUNCTION_LINES:
                yield node.lineno, f'{node.name}: {length} lines'


def one_way(path: pathlib.Path, tree: ast.Module, text: str) -> Complaints:
    own = layer('.'.join(path.with_suffix('').parts))
    if own is None:
        return
    for line, imported in imports(tree):
        other = layer(imported)
        if other is not None and other > own:
            yield line, f'{imported} is above {LAYERS[own]}'


def nova_internals(path: pathlib.Path, tree: ast.Module,
                   text: str) -> Complaints:
    """Invariant 7: one place alone imports Nova's internals.

    The demo stands on Nova's test harness. It is in the wheel, what it needs
    is installed with the extra `demo` only, and nothing imports it.
    """
    if path.parts[0] != 'nova_vgpu_mig' or path.parts[1] == 'demo':
        return
    if path.parts[:3] == ('nova_vgpu_mig', 'nova', 'internals'):
        return
    for line, imported in imports(tree):
        if imported.split('.')[0] == 'nova':
            yield line, f'{imported}: only nova/internals may'


def threads(path: pathlib.Path, tree: ast.Module, text: str) -> Complaints:
    if path.parts[0] != 'nova_vgpu_mig':
        return
    banned = set(THREAD_HOSTILE)
    if path.parts[1] == 'nova':
        banned.add('futurist')
    for line, imported in imports(tree):
        if imported.split('.')[0] in banned:
            yield line, f"{imported}: ends a service in Nova's threads mode"


RULES: tuple[Callable[[pathlib.Path, ast.Module, str], Complaints], ...] = (
    header, docstring, name, sizes, one_way, nova_internals, threads)


def main() -> int:
    listed = subprocess.run(
        ['git', 'ls-files', '*.py'],
        capture_output=True, text=True, check=True)
    complaints = 0
    for path in map(pathlib.Path, listed.stdout.split()):
        if not path.exists():
            continue
        text = path.read_text()
        tree = ast.parse(text)
        for rule in RULES:
            for line, what in rule(path, tree, text):
                print(f'{path}:{line}: {what}')
                complaints += 1
    return 1 if complaints else 0


if __name__ == '__main__':
    sys.exit(main())
