"""The embedded data set: projection against closed forms and ray marching, findings, formats, and what is on disk."""

import shutil

import numpy as np
import pydicom
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxrbase.data.contact_sheet import contact_sheet
from cxrbase.data.decode import decode, to_uint8
from cxrbase.data.manifest import Manifest
from cxrbase.data.patient import draw_patient
from cxrbase.data.phantom import FORMATS, make_phantom
from cxrbase.data.phantom_exposure import SITES, draw_exposure
from cxrbase.data.phantom_files import write_image
from cxrbase.data.phantom_findings import FINDINGS
from cxrbase.data.phantom_geometry import Geometry
from cxrbase.data.phantom_intervals import intervals
from cxrbase.data.phantom_projection import line_integral
from cxrbase.data.phantom_radiograph import attenuation, build_chest, without
from cxrbase.data.phantom_shadow import outline
from cxrbase.data.phantom_shapes import ellipsoid, join
from cxrbase.errors import ConfigError

PATIENTS, SIZE = 150, 64


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("phantom"), patients=PATIENTS, image_size=SIZE, workers=2)


@pytest.fixture(scope="module")
def manifest(phantom):
    return Manifest.read(phantom)


def geometry(height=21, width=17):
    """A source far off the axis, so that no symmetry hides a mistake; the middle pixel is at (0, 0, 10)."""
    right, down = np.array([8.0, 0.5, 1.0]), np.array([0.3, -9.0, 0.4])
    return Geometry(np.array([15.0, -8.0, -90.0]), np.array([0.0, 0.0, 10.0]), right, down, height, width)


def rays(view):
    u, v = (np.arange(view.width) * 2 + 1) / view.width - 1, (np.arange(view.height) * 2 + 1) / view.height - 1
    pixels = view.centre + u[None, :, None] * view.right + v[:, None, None] * view.down
    return pixels - view.source


def march(shapes, view, steps=20_000):
    """Midpoint rule along every ray: the density profiles written out, nothing in closed form."""
    direction = rays(view)
    length = np.linalg.norm(direction, axis=-1)
    total, inside = np.zeros(length.shape), np.zeros((len(shapes), *length.shape))
    # Everything lies between 0.7 and 1.2 of the way to the detector.
    along = 0.7 + (np.arange(steps) + 0.5) / steps * 0.5
    for index in range(len(shapes)):
        origin = shapes.shape[index] @ (view.source - shapes.centre[index])
        step = direction @ shapes.shape[index].T
        # |origin + t step|^2 as a polynomial in t keeps the arrays small.
        a, b, c = (step**2).sum(-1), (step @ origin) * 2, origin @ origin
        power = {0: 0.0, 1: -0.25, 2: 2.0}[int(shapes.kind[index])]
        for row in range(view.height):
            depth = 1 - (a[row, :, None] * along**2 + b[row, :, None] * along + c)
            density = np.where(depth > 0, np.maximum(depth, 1e-12) ** power, 0)
            total[row] += shapes.density[index] * density.mean(-1) * 0.5 * length[row]
            inside[index, row] = (depth > 0).mean(-1) * 0.5 * length[row]
    return total, inside


def test_a_ray_through_the_centre_of_a_sphere_collects_its_diameter():
    view = geometry()
    middle = view.source + 0.9 * rays(view)[10, 8]
    for kind, factor in {"solid": 2.0, "soft": 16 / 15}.items():
        path = line_integral(ellipsoid(middle, 3.0, 0.7, kind=kind), view)
        assert path[10, 8] == pytest.approx(factor * 3.0 * 0.7, rel=1e-6)
        direction = rays(view) / np.linalg.norm(rays(view), axis=-1, keepdims=True)
        missed = np.linalg.norm(np.cross(direction, middle - view.source), axis=-1) > 3.0
        assert 0 < missed.sum() < missed.size
        assert (path[missed] == 0).all()
        assert (path[~missed] > 0).all()
    low, high = intervals(ellipsoid(middle, 3.0), view)
    assert high[0, 10, 8] - low[0, 10, 8] == pytest.approx(6.0, rel=1e-4)
    assert (low[0, 10, 8] + high[0, 10, 8]) / 2 == pytest.approx(np.linalg.norm(middle - view.source), rel=1e-4)
    assert (high - low)[0][missed] == pytest.approx(0)


@pytest.mark.parametrize("kind", ["solid", "rod", "soft"])
def test_projection_equals_ray_marching_on_random_ellipsoids(kind):
    rng = np.random.default_rng(3)
    parts = []
    for _ in range(4):
        radii = rng.uniform(2, 5, 3)
        parts.append(ellipsoid(rng.normal(0, 2, 3), radii, rng.uniform(0.1, 1), kind=kind, tilt=rng.uniform(0, 90)))
    shapes, view = join(parts), geometry(height=9, width=7)
    total, inside = march(shapes, view)
    low, high = intervals(shapes, view)
    np.testing.assert_allclose(high - low, inside, atol=0.01)
    np.testing.assert_allclose(line_integral(shapes, view), total, rtol=1e-2, atol=0.01 * total.max())


@pytest.mark.parametrize("place", [[0, 0, 0], [9, -9, 2], [-7, 8, 0]])
def test_a_piece_of_the_detector_sees_what_the_whole_sees_there(place):
    shape, view = ellipsoid(place, [5.0, 7.0, 3.0], 1.0, tilt=20), geometry(height=33, width=29)
    piece, rows_and_columns = view.part(outline(shape, view)[0])
    whole, part = line_integral(shape, view), line_integral(shape, piece)
    # In 32 bits, of a path of 6 cm.
    assert np.allclose(whole[rows_and_columns], part, rtol=1e-5, atol=1e-5)
    elsewhere = whole.copy()
    elsewhere[rows_and_columns] = 0
    assert part.any()
    assert not elsewhere.any()
    assert part.size < whole.size


@pytest.mark.parametrize("finding", ["pneumonia", "nodule", "effusion"])
def test_a_finding_adds_attenuation_inside_its_box(finding):
    for number in range(4):
        patient = draw_patient((11, number), {finding: 0.7})
        exposure = draw_exposure((11, number, 0), SITES[0], "PA", image_size=96)
        path, boxes = attenuation(build_chest(patient, exposure.pose), exposure.geometry)
        clear, none = attenuation(build_chest(without(patient, finding), exposure.pose), exposure.geometry)
        added = path - clear
        x, y, width, height = boxes[finding]
        box = added[int(y) : int(np.ceil(y + height)), int(x) : int(np.ceil(x + width))]
        assert none == {}
        assert added.min() > -1e-6
        assert box.max() > 0.05
        assert box.sum() > 0.9 * added.sum()
        assert width * height < 0.6 * path.size  # an effusion may be on both sides


def test_the_pixels_do_not_depend_on_workers_or_on_how_many_patients_follow(tmp_path, phantom, manifest):
    few = Manifest.read(make_phantom(tmp_path / "a", patients=6, image_size=SIZE, workers=1))
    assert len(few) < len(manifest)
    for row, path in enumerate(few.column("path")):
        assert (tmp_path / "a" / path).read_bytes() == (phantom.parent / path).read_bytes()
        assert few.table.slice(row, 1).to_pylist() == manifest.table.slice(row, 1).to_pylist()
    other = Manifest.read(make_phantom(tmp_path / "b", patients=1, image_size=SIZE, seed=1))
    assert (tmp_path / "b" / other.column("path")[0]).read_bytes() != few.paths[0].read_bytes()


def test_every_finding_is_present_and_absent_and_patients_stay_in_one_split(manifest):
    assert manifest.labels == FINDINGS
    assert len(set(manifest.patients())) == PATIENTS
    for split in ("train", "val", "test"):
        labels = manifest.select(split).label_matrix()
        assert ((labels == 1).any(0) & (labels == 0).any(0)).all()
    home = dict(zip(manifest.patients(), manifest.column("split"), strict=True))
    assert [home[patient] for patient in manifest.patients()] == manifest.column("split").tolist()


def test_a_box_lies_in_its_image_and_stands_for_a_finding_that_is_there(manifest):
    for name in FINDINGS:
        boxes, labels = manifest.column(f"box_{name}"), manifest.column(f"label_{name}")
        assert (labels[boxes != ""] == 1).all()
        assert (boxes[labels == 1] != "").mean() > 0.9
        for path, box in zip(manifest.paths, boxes, strict=True):
            if box:
                x, y, width, height = map(float, box.split())
                rows, columns = decode(path).shape
                assert 0 <= x <= x + width <= columns
                assert 0 <= y <= y + height <= rows


def kind_of(path):
    if path.suffix == ".dcm":
        return str(pydicom.dcmread(path).PhotometricInterpretation).lower()
    with Image.open(path) as image:
        return {"JPEG": "jpeg", "PNG": "png16" if image.mode.startswith("I;16") else "png"}[image.format]


def test_every_site_writes_its_format_and_all_of_them_decode_bone_bright(manifest):
    found = {}
    for path, site, view in zip(manifest.paths, manifest.column("site"), manifest.column("view_position"), strict=True):
        assert kind_of(path) == FORMATS[site]
        if view != "LATERAL":
            image = to_uint8(decode(path)).astype(float)
            rows, columns = slice(int(0.35 * len(image)), int(0.55 * len(image))), image.shape[1]
            spine = image[rows, int(0.46 * columns) : int(0.54 * columns)].mean()
            lungs = np.r_["1", image[rows, columns // 4 : columns // 3], image[rows, -columns // 3 : -columns // 4]]
            found.setdefault(FORMATS[site], []).append(spine > lungs.mean())
    assert sorted(found) == ["jpeg", "monochrome1", "monochrome2", "png16"]
    assert {form: np.mean(brighter) > 0.9 for form, brighter in found.items()} == dict.fromkeys(found, True)


def test_a_png_of_a_phantom_keeps_all_of_its_16_bits(tmp_path):
    levels = np.random.default_rng(0).integers(0, 2**16, (37, 53))
    name = write_image(np.float32(levels / 65535), tmp_path, "a", "png16", "p", "PA")
    with Image.open(tmp_path / name) as image:
        assert image.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(image), np.rint(np.float32(levels / 65535) * np.float32(65535)))


def test_monochrome1_is_stored_inverted_and_decoded_upright(manifest):
    path = next(p for p in manifest.paths if p.suffix == ".dcm" and kind_of(p) == "monochrome1")
    stored = pydicom.dcmread(path).pixel_array
    assert np.corrcoef(stored.ravel(), decode(path).ravel())[0, 1] == pytest.approx(-1)


def test_global_grey_levels_give_no_finding_away(manifest):
    histograms = np.stack(
        [np.histogram(to_uint8(decode(path)), 32, (0, 256), density=True)[0] for path in manifest.paths]
    )
    areas = []
    for truth in manifest.label_matrix().T:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        chance = cross_val_predict(
            model, histograms, truth, groups=manifest.patients(), cv=GroupKFold(5), method="predict_proba"
        )
        areas.append(roc_auc_score(truth, chance[:, 1]))
    print(f"macro AUROC of grey histograms {np.mean(areas):.3f}: {np.round(areas, 3)}")  # noqa: T201
    assert np.mean(areas) < 0.65
    assert np.max(areas) < 0.7


@pytest.fixture
def small(tmp_path):
    root = tmp_path / "small"
    return make_phantom(root, patients=3, image_size=32).parent


def times(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_a_second_call_writes_nothing(small):
    before = times(small)
    assert make_phantom(small, patients=3, image_size=32) == small / "manifest.parquet"
    assert times(small) == before


@pytest.mark.parametrize("change", [{"patients": 4}, {"image_size": 33}, {"seed": 1}])
def test_a_folder_with_another_phantom_is_refused(small, change):
    before = times(small)
    with pytest.raises(ConfigError, match=r"holds .* and not"):
        make_phantom(small, **{"patients": 3, "image_size": 32, **change})
    assert times(small) == before


def test_a_folder_with_anything_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="is not empty and holds no phantom: name a new folder as root"):
        make_phantom(tmp_path, patients=3, image_size=32)
    with pytest.raises(ConfigError, match="is not a folder"):
        make_phantom(tmp_path / "thesis.txt", patients=3, image_size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_impossible_parameters_are_refused(tmp_path):
    for change in ({"patients": 0}, {"image_size": 31}):
        with pytest.raises(ConfigError, match="must be at least"):
            make_phantom(tmp_path, **{"patients": 3, "image_size": 32, **change})


def test_an_interrupted_phantom_is_completed(small, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(small, whole)
    # What is on disk when the process is killed half way: the marker, some images, one of them cut.
    for name in ("phantom.json", "manifest.parquet"):
        (small / name).unlink()
    (small / ".unfinished").touch()
    first, second, *_ = sorted((small / "images").iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:50])
    make_phantom(small, patients=3, image_size=32)
    assert sorted(p.relative_to(small) for p in times(small)) == sorted(p.relative_to(whole) for p in times(whole))
    for path in times(small):
        assert path.read_bytes() == (whole / path.relative_to(small)).read_bytes()


def test_the_contact_sheet_is_a_picture_of_the_chosen_images(manifest, tmp_path):
    contact_sheet(manifest, tmp_path / "sheet.png", rows=2, columns=3)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 300
        assert np.asarray(sheet.convert("L")).std() > 20
