"""Movies and films: frames by their number, upright, and in the colours that were drawn."""

import struct
from colorsys import rgb_to_hsv
from unittest.mock import patch

import numpy as np
import pytest
from videos import Disc, draw

from core.checks import UserError
from core.tracking.film import Film, overlay
from core.tracking.frames import Backwards
from core.tracking.labels import write_text
from core.tracking.movie import Movie
from core.visualization.palette import colors_of

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def clip():
    return draw(30, (61, 83), [Disc(1, (20, 20), 9), Disc(2, (50, 30), 12, (-1.0, 1.2))])


def write_movie(path, images, codec, options):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = 84, 62, "yuv420p"
        for image in images:
            padded = np.pad(image, ((0, 1), (0, 1), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(padded, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory, clip):
    """An H.264 film with frames that depend on later ones, and a key frame every ten."""
    path = tmp_path_factory.mktemp("movies") / "clip.mp4"
    return write_movie(path, clip.images, "libx264", {"g": "10", "bf": "2"})


def decoded(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_frames_are_found_by_number_in_any_order(path):
    expected = decoded(path)
    movie = Movie(path, "source", 10**6)
    assert (len(movie), movie.size, movie.rate) == (30, (62, 84), 24)
    assert movie.names[:2] == ["00000", "00001"]
    for i in (0, 1, 2, 29, 11, 10, 9, 9, 25, 0):
        assert np.array_equal(movie.image(i), expected[i])


def test_walking_backwards_decodes_each_frame_a_few_times_at_most(path):
    movie, decodes = Movie(path, "source", 10**6), []
    plain = Movie._decode
    with patch.object(Movie, "_decode", lambda self, i: decodes.append(i) or plain(self, i)):
        images = [Backwards(movie).image(0)]
        backwards = Backwards(movie)
        images = [backwards.image(k) for k in range(30)]
    assert all(np.array_equal(a, b) for a, b in zip(images[::-1], decoded(path), strict=True))
    assert len(decodes) <= 3 * 30


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.mp4", "libx264", {"x264-params": "keyint=8:bframes=3:open-gop=1:scenecut=0"}),
        ("clip.mp4", "libx265", {"x265-params": "keyint=8:open-gop=1:scenecut=0:log-level=0"}),
        ("clip.mpg", "mpeg2video", {"g": "12", "bf": "2"}),
        ("clip.avi", "libx264", {"g": "8", "bf": "0"}),
    ],
)
def test_movies_whose_key_frames_lead_not_to_every_frame_are_read_backwards(
    tmp_path, clip, name, codec, options
):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = write_movie(tmp_path / name, clip.images, codec, options)
    expected, movie = decoded(path), Movie(path, "source", 10**6)
    assert len(movie) == len(expected) == 30
    for i in reversed(range(30)):
        assert np.array_equal(movie.image(i), expected[i]), i


def test_walking_in_steps_decodes_each_frame_once(path):
    movie, decodes = Movie(path, "source", 10**6), []
    plain = Movie._decode
    with patch.object(Movie, "_decode", lambda self, i: decodes.append(i) or plain(self, i)):
        for i in range(0, 30, 3):
            movie.image(i)
    assert len(decodes) <= 30


def test_a_movie_that_was_cut_off_can_be_read_as_far_as_it_goes(tmp_path, clip):
    path = write_movie(tmp_path / "clip.avi", clip.images, "libx264", {"g": "8", "bf": "0"})
    expected = decoded(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    movie = Movie(path, "source=x", 10**6)
    last = len(movie) - 1  # half a frame
    assert 0 < last < 29
    for i in (0, last - 1, 3):
        assert np.array_equal(movie.image(i), expected[i])
        with pytest.raises(UserError, match=rf"source=x ends before frame {last}, although it li"):
            movie.image(last)


def turned(path, tmp_path):
    """The same film as a phone held upright records it: the header says to turn it clockwise."""
    data = bytearray(path.read_bytes())
    matrix = data.find(b"tkhd") + 4 + 4 + 20 + 8 + 8
    one = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    target = tmp_path / "turned.mp4"
    target.write_bytes(data)
    return target


def test_films_of_phones_are_upright(path, tmp_path):
    movie = Movie(turned(path, tmp_path), "source", 10**6)
    assert movie.size == (84, 62)
    # the upper left corner comes to the upper right
    assert np.array_equal(movie.image(3), np.rot90(decoded(path)[3], -1))


@pytest.mark.parametrize("num_bytes", [0, 400])
def test_a_file_that_is_no_movie_is_refused(path, tmp_path, num_bytes):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(UserError, match=r"source=x cannot be read as a movie|has no pictures"):
        Movie(broken, "source=x", 10**6)


def test_a_movie_of_too_many_pixels_is_refused(path):
    with pytest.raises(UserError, match=r"84 x 62 pixels, more than data.max_image_pixels=5000"):
        Movie(path, "source", 5000)


def test_without_pyav_one_sentence_says_what_to_do(path):
    with (
        patch.dict("sys.modules", {"av": None}),
        pytest.raises(UserError, match=r"pip install 'av>=14', or use a folder of images"),
    ):
        Movie(path, "source", 10**6)


def test_films_keep_colours_frames_and_odd_sizes(tmp_path):
    image = np.zeros((61, 83, 3), np.uint8)
    image[:, :40], image[:, 40:] = (220, 30, 40), (40, 90, 200)
    with Film(tmp_path / "films" / "a.mp4", None) as film:
        for _ in range(5):
            film.add(image)
    assert film.error is None
    frames = decoded(film.path)
    assert len(frames) == 5
    assert frames[0].shape == (62, 84, 3)
    with av.open(str(film.path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        frame = next(container.decode(stream))
        tags = (frame.colorspace, frame.color_range)
        context = stream.codec_context
        assert (int(tags[0]), int(tags[1])) == (1, 1)
        assert (context.color_primaries, context.color_trc) == (1, 1)
        # as BT.709 has it
        red, green, blue = (value / 255 for value in (220, 30, 40))
        luma = 16 + 219 * (0.2126 * red + 0.7152 * green + 0.0722 * blue)
        assert frame.to_ndarray()[20, 10] == pytest.approx(luma, abs=2)


def test_a_film_that_cannot_be_written_is_given_up(tmp_path):
    (tmp_path / "file").touch()
    with Film(tmp_path / "file" / "a.mp4", None) as film:
        film.add(np.zeros((8, 8, 3), np.uint8))
        film.add(np.zeros((8, 8, 3), np.uint8))
    assert film.error


def test_the_overlay_paints_masks_alone_in_their_colours(clip):
    masks = {key: clip.labels[4] == key for key in (1, 2)}
    painted = overlay(clip.images[4], masks, {})
    outside = clip.labels[4] == 0
    assert np.array_equal(painted[outside], clip.images[4][outside])
    y, x = (int(values.mean()) for values in np.nonzero(masks[2]))
    hues = [rgb_to_hsv(*color)[0] for color in (painted[y, x] / 255, colors_of((1, 2))[1])]
    assert hues[0] == pytest.approx(hues[1], abs=0.02)
    assert not np.array_equal(painted[y, x], clip.images[4][y, x])
    assert np.array_equal(overlay(clip.images[4], {}, {}), clip.images[4])


def test_labels_stand_at_their_objects(clip):
    masks = {key: clip.labels[4] == key for key in (1, 2)}
    plain, named = (overlay(clip.images[4], masks, labels) for labels in ({}, {2: "cat"}))
    rows, columns = np.nonzero((plain != named).any(-1))
    top = np.nonzero(masks[2])[0].min()
    assert len(rows)
    assert rows.max() < top + 2
    assert columns.min() >= np.nonzero(masks[2])[1].min() - 1


@pytest.mark.parametrize(("x", "y"), [(-30, -5), (70, 55), (5, 5)])
def test_labels_that_leave_the_frame_are_cut_off(x, y):
    image = np.full((61, 83, 3), 9, np.uint8)
    write_text(image, x, y, "object 2001, object 2001", ground=(200, 10, 10))
    inside = image[max(0, y) : max(0, y + 20), max(0, x) :]
    assert not (inside == 9).all(-1).any()
    assert (image[:, : max(0, x)] == 9).all()


def test_labels_stand_out_from_their_ground():
    for ground, text in (((240, 240, 200), 0), ((20, 20, 90), 255)):
        image = np.zeros((20, 60, 3), np.uint8)
        write_text(image, 0, 0, "X", ground=ground)
        assert np.abs(image.astype(int) - text).sum(-1).min() < 60
