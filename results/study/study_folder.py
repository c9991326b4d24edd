"""Where everything of a run's study lies."""

from pathlib import Path

from results.store.run_folder import RunFolder


class StudyFolder:
    """The paths of a run's study. Nothing is created, and nothing need be there."""

    def __init__(self, run_dir: Path) -> None:
        self.root = RunFolder(run_dir).study

    @property
    def key(self) -> Path:
        """The file of what was asked, and of which row each picture is; it stays in the run folder."""
        return self.root / "study.json"

    @property
    def page(self) -> Path:
        """The page; its folder, with the pictures in it, is what raters get."""
        return self.root / "page" / "index.html"

    @property
    def answers(self) -> Path:
        """The folder of answers that the local server took, a file per rater."""
        return self.root / "answers"

    @property
    def results(self) -> Path:
        """The folder of what the answers say: tables and a plot."""
        return self.root / "results"

    def picture(self, name: str) -> Path:
        """Return the path of a picture beside the page, given its opaque name."""
        return self.page.parent / "pictures" / f"{name}.png"
