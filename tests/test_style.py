"Code stays as it is meant: ruff, a type checker, signatures that tests look at."
import os
import subprocess
import sys
from unittest.mock import patch

import nbformat
import pytest
import torch
from jupyter_client.provisioning import local_provisioner
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import warm
from conftest import root
from ddpm_lit.data import to_model

def run(module: str, *args: str):
    "A tool of this environment, over the project"
    command = [sys.executable, '-m', module, *args]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)

def test_ruff():
    "pyproject.toml says what is looked at, and what is left out by name"
    found = run('ruff', 'check', '--no-cache', '--quiet', '--output-format', 'concise')
    assert found.returncode==0, found.stdout + found.stderr

def test_types():
    found = run('mypy', '--no-error-summary', '--cache-dir', os.devnull)
    assert found.returncode==0, found.stdout + found.stderr

# ---------------------------------------------------------------- signatures
WRONG = """
import torch
from ddpm_lit.forward import Schedule, q_sample
q_sample(Schedule.linear(), torch.zeros(3, 2), 5, torch.zeros(3, 4))
"""
SAYS = 'parameters of ddpm_lit.forward.q_sample'

SHORT = """
from ddpm_lit.forward import Schedule
schedule = Schedule.linear()
schedule.alpha_bar = schedule.alpha_bar[:-1]
print(len(schedule.snr))
"""
CHECKED = 'import shapes; shapes.check_shapes()'

@pytest.mark.parametrize('code, unchecked, checked', [
    (WRONG, 'RuntimeError', SAYS),
    (SHORT, '1000', 'return value of ddpm_lit.forward'),
], ids=['what goes in', 'what comes out'])
def test_a_wrong_shape_is_refused_in_a_process_that_asks_for_it(code, unchecked, checked):
    "Not in one that does not: at the user's, torch itself says what does not fit"
    env = {**os.environ, 'PYTHONPATH': f'{root}{os.pathsep}{root/"tests"}'}
    for first, says in (('', unchecked), (CHECKED, checked)):
        command = [sys.executable, '-c', f'{first}\n{code}']
        r = subprocess.run(command, env=env, capture_output=True, text=True)
        assert says in r.stdout + r.stderr

@pytest.mark.skipif(sys.platform!='linux', reason='kernels are forked on Linux')
def test_a_wrong_shape_is_refused_in_the_kernel_of_a_chapter():
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(WRONG)])
    client = NotebookClient(nb, resources=dict(metadata=dict(path=str(root/'nbs'))))
    with patch.object(local_provisioner, 'launch_kernel', warm.kernel):
        with pytest.raises(CellExecutionError, match=SAYS):
            client.execute(env={**os.environ, 'PYTHONPATH': str(root)})

def test_a_sentence_of_the_library_goes_first():
    with pytest.raises(ValueError, match='uint8 images with levels 0..255'):
        to_model(torch.zeros(2, 2))
