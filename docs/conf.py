"""How `make site` builds the documentation: Sphinx with MyST, every page as it is in the repository, warnings are errors."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent
REPOSITORY = "https://github.com/trafficllm/trafficllm/blob/main/"
LINK = re.compile(r"\]\(([^)#:\s]+)")

project = "TrafficLLM"
html_title = "TrafficLLM"
extensions = ["myst_parser"]
root_doc = "index"
exclude_patterns = ["README.md"]  # the same list for whoever reads the repository
myst_heading_anchors = 4
suppress_warnings = ["misc.highlighting_failure"]  # a fence's language is also for the tests, which run what it holds
html_theme = "alabaster"
html_theme_options = {"description": "Open language models for network traffic", "fixed_sidebar": True, "page_width": "1100px"}
html_sidebars = {"**": ["about.html", "searchbox.html", "navigation.html"]}
html_show_sourcelink = False
html_copy_source = False
highlight_language = "none"


def setup(app):
    """Links to folders, and to files of the repository that are no pages, lead to the repository; those to nothing stay, and are a warning."""

    def read(_, name, source):
        def target(match):
            path = (DOCS / name).parent.joinpath(match[1]).resolve()
            elsewhere = path.is_dir() or (path.is_file() and not path.is_relative_to(DOCS))
            return f"]({REPOSITORY}{path.relative_to(DOCS.parent).as_posix()}" if elsewhere else match[0]

        source[0] = LINK.sub(target, source[0])

    app.connect("source-read", read)
