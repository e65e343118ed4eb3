"""The page of the data check in a real browser: all of it is shown, and nothing is asked for."""

import pytest
from health_sets import SPOILS, write_video

from core.config import Config, DataConfig, ModelConfig
from core.data.check import check_data

pytestmark = pytest.mark.browser

NAME = "<img src=x onerror=document.title='hurt'>"


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    write_video(root, NAME, 0, SPOILS["gaps"])
    write_video(root, "moved", 1, SPOILS["shifted"])
    write_video(root, "z", 2)
    data = DataConfig(source="vos_folder", root=str(root), num_frames=8)
    out = tmp_path_factory.mktemp("out")
    check_data(Config(data=data, model=ModelConfig(image_size=128)), out)
    return out / "index.html"


def test_the_page_shows_everything_and_asks_for_nothing(page, checked):
    page.visit(checked, {"runs": []})
    assert page.texts(".problem h2") == [
        "Masks are shifted against their frames",
        "Objects are missing for a moment",
    ]
    assert page.texts(".example > p")[1].startswith(f"train · {NAME}: object 2 is missing in fr")
    page.run("for (const image of document.images) image.loading = 'eager'")
    page.wait("return [...document.images].every(image => image.complete && image.naturalWidth)")
    # two and three pictures of the problems, a sheet of each clip
    assert page.run("return document.images.length") == 5 + 3
    assert page.run("return document.title") == "Data check · vos_folder"
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    assert page.requests() == []
    assert page.complaints() == []


def test_the_page_is_light_or_dark_as_asked(page, checked):
    page.visit(checked, {"runs": []})
    ground = "return getComputedStyle(document.body).backgroundColor"
    before = page.run(ground)
    page.find("#theme").click()
    after = page.run(ground)
    assert {before, after} == {"rgb(243, 244, 246)", "rgb(16, 19, 23)"}
    page.find("#theme").click()
    assert page.complaints() == []
