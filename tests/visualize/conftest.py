import pytest


@pytest.fixture
def figures(monkeypatch):
    """The matplotlib figures that a test makes, in order, to look into."""
    from matplotlib.figure import Figure

    made = []
    initialise = Figure.__init__

    def remember(self, *args, **kwargs):
        made.append(self)
        initialise(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "__init__", remember)
    return made
