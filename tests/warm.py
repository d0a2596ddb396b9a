"""Processes that have the libraries loaded when they begin. To import torch, its compiler,
matplotlib and a kernel takes six seconds of computing; here a process that does nothing else
imports them once, and is forked. Of `ddpm_lit` it knows nothing."""
import contextlib, os, subprocess, sys, time
from multiprocessing import forkserver, get_context
from multiprocessing.context import BaseContext
from unittest.mock import patch
from shapes import check_shapes

LIBRARIES = [
    'torch', 'torch._dynamo', 'torch.utils.flop_counter', 'torch.distributions', 'torchvision',
    'accelerate', 'safetensors.torch', 'numpy', 'scipy.stats', 'sklearn.datasets',
    'sklearn.linear_model', 'sklearn.svm', 'matplotlib.pyplot', 'matplotlib.animation',
    'PIL.Image', 'ipykernel.kernelapp', 'ipykernel.ipkernel', 'ipywidgets', 'anywidget',
    'IPython.display', 'fastcore.test', 'fastprogress', 'jaxtyping', 'beartype', 'nbdev',
    'huggingface_hub', 'torchmetrics.image.fid', 'tensorboard', 'click', 'platformdirs',
    'filelock']

# glibc keeps what is freed: sums over large tensors take half the time
KEEP_MEMORY = dict(MALLOC_MMAP_MAX_='0', MALLOC_TRIM_THRESHOLD_=str(2**31-1))

def forks() -> BaseContext:
    "To start processes as `multiprocessing` does"
    context = get_context('forkserver')
    context.set_forkserver_preload(LIBRARIES)
    with patch.dict(os.environ, KEEP_MEMORY): forkserver.ensure_running()
    return context

def _kernel(arguments: list[str], env: dict[str, str], folder: str):
    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.path[:0] = env['PYTHONPATH'].split(os.pathsep)
    check_shapes()
    import matplotlib
    from ipykernel.kernelapp import IPKernelApp
    # as a kernel tells matplotlib before it is imported
    matplotlib.rcParams['backend'] = 'module://matplotlib_inline.backend_inline'
    parent = f'--IPKernelApp.parent_handle={os.getppid()}'   # it ends when that one does
    IPKernelApp.launch_instance([*arguments, parent])

class Process:
    "As much of `subprocess.Popen` as is used here"
    stdin = stdout = stderr = None
    def __init__(self, target, *args):
        self.process = forks().Process(target=target, args=args)
        self.process.start()
        self.pid = self.process.pid
        with contextlib.suppress(ProcessLookupError):
            # signals to its group are for it alone
            while os.getpgid(self.pid)!=self.pid: time.sleep(.001)
    def poll(self) -> int|None: return self.process.exitcode
    def wait(self, timeout: float|None = None) -> int|None:
        self.process.join(timeout)
        if self.process.exitcode is not None: return self.process.exitcode
        raise subprocess.TimeoutExpired('a forked process', timeout)
    def send_signal(self, number: int): os.kill(self.pid, number)
    def kill(self): self.process.kill()
    def terminate(self): self.process.terminate()

def kernel(command: list[str], env: dict[str, str], cwd: str, **_) -> Process:
    """In the place of jupyter_client's `launch_kernel`: the arguments of the kernel follow
    `-m ipykernel_launcher`"""
    return Process(_kernel, command[command.index('-f'):], env, cwd)
