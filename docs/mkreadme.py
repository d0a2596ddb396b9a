"README.md from nbs/index.ipynb: `python docs/mkreadme.py`"
import re
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter
root = Path(__file__).parent.parent

def readme() -> str:
    "The text of nbs/index.ipynb, its links pointing into the repository"
    md, resources = MarkdownExporter().from_notebook_node(nbformat.read(root/'nbs'/'index.ipynb', 4))
    assert not resources['outputs'], 'figures in the index notebook need a home'
    return re.sub(r'\n{3,}', '\n\n', re.sub(r'\]\((?!https?:|#)([\w./-]+\.(?:ipynb|md))', r'](nbs/\1', md)).strip()+'\n'

if __name__=='__main__': (root/'README.md').write_text(readme(), encoding='utf-8')
