"""Change the code in many small ways, and count the changes that a test notices.

Example:
    python tools/reliability/mutate.py --sample 600 --out report.json

Each mutant is the package with one change by cosmic-ray: another operator or number, a
condition the other way round, a decorator or a loop left out. Annotations and f-strings
stay as they are. The tests that guard the file run on the mutant until one fails: in a
copy of the checkout, in a process that is forked from one that has imported the
libraries, but not this package. The order is random, and after Ctrl-C the report is of
the mutants that have been run.

The exit status is 1 if less than the share --minimum of the mutants is noticed.
"""

import ast
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from time import monotonic

# This file is also imported by the processes that run tests. It imports mmghostnetv2
# only where the tool itself needs it, because these processes import the mutant.

ROOT = Path(__file__).resolve().parents[2]
COPIED = 'mmghostnetv2', 'tests', 'configs', 'tools', 'model-index.yml'
FORKS = multiprocessing.get_context('forkserver')
LIBRARIES = [
    'pytest',
    'hypothesis',
    'mmcv.cnn',
    'mmpretrain.apis',
    'mmdet',
    'mmseg',
    'timm',
]
MEMORY = 4 << 30  # address space beyond what the imports take, in bytes
# A mutant hangs if its tests take more than SLOWER times as long as those of the
# original, and SECONDS.
SLOWER, SECONDS = 3, 20
PASSED = 0, 5  # exit status of pytest: no test failed, or there is none

# The tests that guard each file, those first that are quick and notice the most
MODELS = {
    'branches': 'ghostnetv3 fold_norms',
    'cbam': 'plugin_layers complexity',
    'checks': 'ablations ghostnet ghostnetv3',
    'coordinate_attention': 'plugin_layers complexity',
    'dfc_attention': 'dfc_attention plugin_layers ablations',
    'fold_norms': 'fold_norms',
    'ghost_module': 'against_timm ghostnet ablations',
    'ghostnet': 'against_timm ghostnet',
    'ghostnetv2': 'ablations ghostnet',
    'ghostnetv3': 'ghostnetv3 against_timm ghostnet',
    'recompute': 'ghostnet',
    'self_attention': 'ablations plugin_layers',
    'squeeze_excite': 'plugin_layers against_timm',
}
GUARDS = {
    f'mmghostnetv2/models/{name}.py': tuple(
        f'tests/test_models/test_{test}.py' for test in tests.split()
    )
    for name, tests in MODELS.items()
}
GUARDS['mmghostnetv2/checkpoint.py'] = (
    'tests/test_checkpoint.py',
    'tests/test_tools/test_model_converters.py',
    'tests/test_released_weights.py',
)
GUARDS['mmghostnetv2/safe_loading.py'] = ('tests/test_checkpoint.py',)
# Each takes as long as the other tests of its file together. What survives the others
# has to survive these, too, by --survivors-of.
SLOW = (
    'tests/test_models/test_ghostnet.py::test_with_cp_compiled',
    'tests/test_models/test_fold_norms.py::test_mobilenetv2_attention',
    'tests/test_checkpoint.py::test_two_processes_download',
)


@dataclass(frozen=True)
class Mutant:
    """A change of the line ``before`` in a file; ``code`` is the whole file then."""

    file: str
    line: int
    operator: str
    before: str
    after: str
    code: str

    def __str__(self):
        return f'{self.file}:{self.line}: {self.before} -> {self.after}'

    def summary(self):
        """Return all but the code."""
        return {key: value for key, value in asdict(self).items() if key != 'code'}


def kept_parts(source):
    """Return where annotations and f-strings begin and end: [(begin, end), ...]."""
    parts = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts.append(node)
        for name in ('annotation', 'returns'):
            parts += filter(None, [getattr(node, name, None)])
    return [
        ((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset))
        for part in parts
    ]


def mutants_of(file):
    """Return all mutants of a file that are Python and different from each other."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    source = (ROOT / file).read_text()
    lines, kept = source.splitlines(), kept_parts(source)
    nodes = list(ast_nodes(get_ast(source)))
    found = {source: None}
    for name in operator_names():
        operator_class = get_operator(name)
        if operator_class.arguments():
            continue  # it needs the names of two variables
        operator = operator_class()
        places = [
            place for node in nodes for place in operator.mutation_positions(node)
        ]
        for i, (begin, _) in enumerate(places):
            if any(low <= begin < high for low, high in kept):
                continue
            code = mutate_code(source, operator, i)
            line, operator_name = begin[0], name.removeprefix('core/')
            before, after = (
                text[line - 1].strip() for text in (lines, code.splitlines())
            )
            with suppress(SyntaxError), warnings.catch_warnings(action='error'):
                compile(code, file, 'exec')
                mutant = Mutant(file, line, operator_name, before, after, code)
                found.setdefault(code, mutant)
    return sorted(filter(None, found.values()), key=lambda x: (x.line, x.operator))


def run_pytest(folder, tests, left_out, log):
    """Run tests in this process, which ends with the exit status of pytest."""
    os.setsid()
    with open(log, 'w') as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # Python recognises an outdated compiled file by the size of its source and the
    # second of its last change. Several mutants may be written in one second.
    sys.dont_write_bytecode = True
    os.chdir(folder)
    os.environ['PYTHONPATH'] = folder
    os.environ['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] = '1'
    sys.path.insert(0, folder)
    for name in [name for name in sys.modules if name.partition('.')[0] == 'tests']:
        del sys.modules[name]
    package = import_module('mmghostnetv2')
    assert Path(package.__file__).parents[1] == Path(folder)
    options = ['-x', '-q', '-p', 'no:cacheprovider', f'--basetemp={folder}/tmp']
    options += [f'--deselect={test}' for test in left_out]
    sys.exit(int(import_module('pytest').main([*options, *tests])))


def run_tests(folder, tests, left_out, seconds):
    """Run tests in a forked process; return its exit status, or None after a while."""
    log = folder / 'output.log'
    args = str(folder), tests, left_out, str(log)
    process = FORKS.Process(target=run_pytest, args=args)
    process.start()
    try:
        process.join(seconds)
        return process.exitcode
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also what the tests started
        process.join()


def copy_checkout(folder):
    """Copy what the tests need."""
    ignore = shutil.ignore_patterns('__pycache__', '.mim', '*.pyc')
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, folder)


def outcomes(mutants, tests, left_out, folder):
    """Yield each mutant with its outcome: survived, killed or hung.

    Raises:
        RuntimeError: Tests fail without any change.
    """
    guards = {mutant.file: tests or GUARDS[mutant.file] for mutant in mutants}
    seconds = {}
    for test in dict.fromkeys(chain(*guards.values())):
        start = monotonic()
        if run_tests(folder, [test], left_out, None) not in PASSED:
            end = (folder / 'output.log').read_text()[-2000:]
            raise RuntimeError(f'{test} fails without any change: {end}')
        seconds[test] = monotonic() - start
    for mutant in mutants:
        path, files = folder / mutant.file, guards[mutant.file]
        path.write_text(mutant.code)
        limit = SECONDS + SLOWER * sum(seconds[test] for test in files)
        status = run_tests(folder, files, left_out, limit)
        shutil.copy(ROOT / mutant.file, path)
        if status is None:
            yield mutant, 'hung'
        else:
            yield mutant, 'survived' if status in PASSED else 'killed'


def in_random_order(mutants, seed):
    """Return all mutants; the first ones have the same share of each file's."""
    rng = random.Random(seed)
    places = []
    for found in mutants.values():
        order = rng.sample(found, len(found))
        places += [((i + 0.5) / len(order), x) for i, x in enumerate(order)]
    return [mutant for _, mutant in sorted(places, key=lambda place: place[0])]


def main(argv=None):
    from mmghostnetv2.arguments import (
        add_out,
        at_least,
        make_parser,
        named_errors,
        share,
    )
    from mmghostnetv2.output import progress, require_free, written

    parser = make_parser(__doc__)
    add = parser.add_argument
    text = 'those to change (default: all that have a list of tests)'
    choices = dict(choices=GUARDS, default=list(GUARDS), metavar='FILE')
    add('--files', nargs='+', help=text, **choices)
    text = 'only as many, the same share of each file (default: all)'
    add('--sample', type=at_least(1), metavar='N', help=text)
    add('--seed', type=at_least(0), default=0, metavar='N', help='of the order')
    text = 'tests to run in place of those that guard the file'
    add('--tests', nargs='+', metavar='FILE', help=text)
    text = 'run only those that survived in this report, and bring it up to date'
    add('--survivors-of', type=Path, metavar='REPORT', help=text)
    text = 'smallest share of noticed mutants (default: %(default)s)'
    add('--minimum', type=share, default=0.85, metavar='X', help=text)
    add_out(parser, 'write a report', ('.json',))
    args = parser.parse_args(argv)
    require_free([args.out] if args.out else [], args.force)

    try:
        mutants = {file: mutants_of(file) for file in args.files}
    except ModuleNotFoundError as error:
        if 'cosmic_ray' not in str(error.name):
            raise
        remedy = 'pip install cosmic-ray==8.7.0'
        raise ImportError(
            f'cosmic-ray is missing, which makes the mutants: {remedy}'
        ) from error
    if args.survivors_of:
        with named_errors(args.survivors_of):
            report = json.loads(args.survivors_of.read_text())
            again = list(report['survived'])
        everything = chain(*mutants.values())
        chosen = [mutant for mutant in everything if mutant.summary() in again]
        if len(chosen) < len(again):
            raise ValueError(f'the code has changed since {args.survivors_of}')
    else:
        chosen = in_random_order(mutants, args.seed)[: args.sample]
        counts = dict(killed=0, hung=0, survived=0)
        files = {file: dict(mutants=len(mutants[file]), **counts) for file in mutants}
        report = {'seed': args.seed, 'files': files, 'survived': []}

    # torch reads it when the libraries are imported
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    FORKS.set_forkserver_preload(LIBRARIES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_checkout(folder)
        left_out = () if args.survivors_of else SLOW
        results = outcomes(chosen, tuple(args.tests or ()), left_out, folder)
        with suppress(KeyboardInterrupt):  # the report is of those until then
            for mutant, outcome in progress(results, 'mutants', len(chosen)):
                report['files'][mutant.file][outcome] += 1
                if args.survivors_of:
                    report['files'][mutant.file]['survived'] -= 1
                    report['survived'].remove(mutant.summary())
                if outcome == 'survived':
                    report['survived'].append(mutant.summary())
                    print(f'survived: {mutant}', file=sys.stderr, flush=True)
    counts = report['files'].values()
    noticed = sum(each['killed'] + each['hung'] for each in counts)
    report['noticed'] = noticed / max(1, noticed + len(report['survived']))
    print(json.dumps(report, indent=2))
    if args.out:
        with written(args.out) as path:
            path.write_text(json.dumps(report, indent=2) + '\n')
    if report['noticed'] < args.minimum:
        raise RuntimeError(
            f'only {report["noticed"]:.1%} of the mutants were noticed, see above'
        )


if __name__ == '__main__':
    from mmghostnetv2.arguments import run_tool

    run_tool(main)
