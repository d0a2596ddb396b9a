"""Time both commands of the README, each in a fresh clone with an empty home, and write
bench/first.json: `python -m bench.first`.

What is timed is the last commit. It takes as long as the two commands do. Afterwards,
`python tools/readme.py` says it in the README."""
import argparse, datetime, json, os, re, subprocess, sys, tempfile, time
from pathlib import Path
from bench.__main__ import machine

root = Path(__file__).parents[1]
PARTS = [
    ('environment_s', 'install_s', 'demo_s'),
    ('environment_dev_s', 'install_dev_s', 'tests_s')]
PRODUCT = '''
import time, torch
a, out = torch.randn(2048, 2048), torch.empty(2048, 2048)
def once():
    start = time.perf_counter()
    torch.mm(a, a, out=out)
    return time.perf_counter()-start
once()
print(round(2*2048**3/min(once() for _ in range(20))/1e9))'''

def commands(readme: str) -> list[list[str]]:
    "The two commands of the README, each as its parts"
    lines = re.findall(r'^(python3 -m venv \S+ && .*)$', readme, re.M)
    return [line.split(' && ') for line in lines]

def seconds(parts: list[str], folder: Path, env: dict) -> list[float]:
    "How long each part of a command takes. Ends the program if one fails"
    took = []
    for part in parts:
        print(f'$ {part}', flush=True)
        start = time.perf_counter()
        done = subprocess.run(part, shell=True, cwd=folder, env=env)
        if done.returncode: sys.exit(f'nothing is written, for this failed: {part}')
        took.append(round(time.perf_counter()-start, 1))
    return took

def gflops(env: dict) -> int:
    "What a product of two matrices reaches in this moment, the best of twenty"
    command = [sys.executable, '-c', PRODUCT]
    r = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return int(r.stdout)

def newcomer(home: Path) -> dict:
    """The environment of somebody who has just logged in: nothing is compiled yet, for torch
    keeps that with the temporary files"""
    ours = re.compile('PYTHON|VIRTUAL_ENV|DDPM_LIT|PYTEST|IN_TEST|OMP_|MKL_|XDG_|JUPYTER|'
        'IPYTHON|TORCH|HF_|ATEN_|ONEDNN_')
    own = str(Path(sys.executable).parent)
    tools = [folder for folder in os.environ['PATH'].split(os.pathsep) if folder!=own]
    theirs = {k: v for k, v in os.environ.items() if not ours.match(k)}
    return theirs | dict(HOME=str(home), TMPDIR=str(home), PATH=os.pathsep.join(tools))

def measure() -> dict:
    facts = machine()
    result = dict(date=datetime.date.today().isoformat(), cpu=facts['cpu'],
        cores=facts['cores'], units=facts['units'])
    with tempfile.TemporaryDirectory(prefix='first-') as folder:
        home = Path(folder)/'home'
        home.mkdir()
        env = newcomer(home)
        result['gflops'] = [gflops(env)]
        readme = (root/'README.md').read_text(encoding='utf-8')
        for names, parts in zip(PARTS, commands(readme), strict=True):
            clone = Path(folder)/names[-1]
            subprocess.run(['git', 'clone', '-q', root, clone], check=True)
            result |= zip(names, seconds(parts, clone, env), strict=True)
            result['gflops'].append(gflops(env))
    return result

def main(argv: list[str]|None = None, file: Path = root/'bench'/'first.json'):
    ap = argparse.ArgumentParser(prog='python -m bench.first', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.parse_args(argv)
    result = json.dumps(measure(), indent=1)
    file.write_text(result+'\n', encoding='utf-8')
    print(result)

if __name__=='__main__': main()
