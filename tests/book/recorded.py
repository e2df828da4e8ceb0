"""What a conftest adds so that nbval compares with the smoke book, which was just executed.

nbval, as it is, executes every cell before it compares. Here it gets from a notebook's executed copy what it
would get from a kernel; the comparison and its options are its own.
"""

import nbformat
from nbval.plugin import IPyNbFile

from dwclib.book.address import SETUP
from dwclib.book.execute import Book


class Recorded:
    """Answer as the kernel did, in the order of the cells."""

    def __init__(self, path):
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        self.cells = iter([c for c in cells if "injected-parameters" not in c.metadata.get("tags", ())])

    def execute_cell_input(self, source, allow_stdin):
        cell = next(self.cells)
        same = cell.source == source or SETUP in cell.metadata.tags  # what installs makes no copy stale
        assert same, "the executed copy has another cell here"
        assert cell.execution_count, "this cell was not executed"
        self.told = [(output.output_type, output) for output in cell.outputs]
        self.told.append(("status", {"execution_state": "idle"}))

    def get_message(self, stream, timeout):
        kind, content = self.told.pop(0)
        return {"msg_type": kind, "content": content, "parent_header": {}}

    def await_reply(self, message, timeout):
        pass

    def is_alive(self):
        return True

    def stop(self):
        pass


def setup(self):
    self.kernel = Recorded(Book("smoke").executed(self.path))
    self.setup_sanitize_files()


IPyNbFile.setup = setup
