"The API reference: every public name is documented, and used by a cell that the tests run."
import importlib
import pytest
from sphinx.pycode import ModuleAnalyzer
from api import book, definition, example, modules, public

@pytest.mark.parametrize('module', [m for m in modules() if m!='workshop.cli'])
def test_public_names(module):
    m, comments = importlib.import_module(f'ddpm_lit.{module}'), ModuleAnalyzer.for_module(f'ddpm_lit.{module}').find_attr_docs()
    for name in public(module):
        assert getattr(m, name).__doc__ if callable(getattr(m, name)) else ('', name) in comments, f'{name} has no docstring'
        assert definition(module, name), f'no cell exports {name}'
        assert example(module, name), f'no cell that runs uses {name}: write one after its definition, or make it private (#| exporti)'

def test_commands():
    from ddpm_lit.workshop import cli
    for name, c in cli.cli.commands.items(): assert c.help, f'ddpm_lit {name} does not say what it does'
    for name in public('workshop.cli'): assert not callable(o := getattr(cli, name)) or o.__doc__, f'{name} has no docstring'

def test_an_example_is_the_first_use():
    use, home = example('forward', 'q_step'), definition('forward', 'q_step'); cells = book()
    between = cells[cells.index(home)+1:cells.index(use)]
    assert use.chapter==home.chapter and use.output and use.runs and not any(c.runs and 'q_step' in c.used for c in between)
    assert example('exact', 'eight_gaussians').chapter>'04'           # a later chapter, which imports it
    assert example('vlb', 'Bound')==example('vlb', 'vlb')             # a class: where it is made
    assert example('workshop.runs', 'keep_memory') is None and definition('workshop.runs', 'keep_memory')   # defined, used by functions only
    assert 'DDPM.sample' in definition('sampling', 'DDPM.sample').made and example('sampling', 'DDPM.sample').chapter=='11_sampling'
