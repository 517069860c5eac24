"""Tiny folders with the layout of public data sets, and what a manifest of them must say.

Each function returns `rows`, the expected columns of every image that is there; `missing`, the paths that a table names
and the folder lacks; and `tables`, the files that the reader cannot do without.
"""

import hashlib
import io
import json
import math

import numpy as np
from PIL import Image

NAN = math.nan


def picture(root, path, *, cut=False):
    """Writes a smooth random image whose content follows from its path; `cut` leaves half of the file."""
    seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big")
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 6), dtype=np.uint8))
    size = tuple(int(side) for side in generator.integers(64, 101, 2))
    stream = io.BytesIO()
    suffix = path.rpartition(".")[2].lower()
    coarse.resize(size, Image.Resampling.BICUBIC).save(stream, "PNG" if suffix == "png" else "JPEG")
    content = stream.getvalue()
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content[: len(content) // 2] if cut else content)


def pictures(root, paths):
    """Writes images, the last one truncated: a manifest lists it, for it only reads names."""
    for place, path in enumerate(paths, 1):
        picture(root, path, cut=place == len(paths))


def write(root, name, text):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")


def tree(rows, *, missing=(), tables=()):
    return {"rows": rows, "missing": list(missing), "tables": list(tables)}


def make_openi(root):
    write(
        root,
        "indiana_projections.csv",
        "uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n1,1_IM-0001-3001.dcm.png,Lateral\n"
        "2,2_IM-0652-1001.dcm.png,Frontal\n3,3_IM-1384-1001.dcm.png,Frontal\n4,4_IM-2050-1001.dcm.png,Frontal\n"
        "5,5_IM-2117-1001.dcm.png,Frontal\n",
    )
    write(
        root,
        "indiana_reports.csv",
        "uid,MeSH,Problems,image,indication,comparison,findings,impression\n"
        '1,normal,normal,"Xray Chest PA and Lateral",Positive TB test,None.,"Clear, no effusion.",Normal chest.\n'
        '2,"Cardiomegaly/borderline;Pulmonary Artery/enlarged",Cardiomegaly;Pulmonary Artery,x,"a\nb",,,\n'
        "4,Pulmonary Atelectasis/base,pulmonary atelectasis; Pleural Effusion,x,,,,\n"
        "5,no indexing,no indexing,x,,,,\n",
    )
    below = "images/images_normalized/"
    healthy = {"view_position": "", "patient_id": "openi:1", "study_id": "1", "label_no_finding": 1, "label_edema": 0}
    rows = {
        f"{below}1_IM-0001-4001.dcm.png": healthy | {"projection": "Frontal"},
        f"{below}1_IM-0001-3001.dcm.png": healthy | {"view_position": "LATERAL"},
        f"{below}2_IM-0652-1001.dcm.png": {"patient_id": "openi:2", "label_cardiomegaly": 1, "label_no_finding": 0},
        f"{below}3_IM-1384-1001.dcm.png": {"patient_id": "openi:3", "label_cardiomegaly": NAN, "problems": ""},
        # Nobody read the report for its problems, so it says nothing of them.
        f"{below}5_IM-2117-1001.dcm.png": {"label_edema": NAN, "label_no_finding": NAN, "problems": "no indexing"},
    }
    pictures(root, rows)
    return tree(
        rows,
        missing=[f"{below}4_IM-2050-1001.dcm.png"],
        tables=["indiana_projections.csv", "indiana_reports.csv"],
    )


def covidx_rows(name, labels):
    three = [
        ("train", "101", "a 1.png", "COVID-19" if labels == 3 else "positive", "cohen"),
        ("train", "r1", "r1.png", "normal" if labels == 3 else "negative", "rsna"),
        ("train", "r2", "r2.png", "pneumonia" if labels == 3 else "negative", "rnsa"),
        # The same number in another set is another person.
        ("train", "r1", "s1.png", "COVID-19" if labels == 3 else "positive", "sirm"),
        ("train", "9", "c9.jpg", "COVID-19" if labels == 3 else "positive", "ricord"),
        ("test", "9", "t9.png", "COVID-19" if labels == 3 else "positive", "ricord"),
        ("test", "r7", "r7.png", "normal" if labels == 3 else "negative", "rsna"),
    ]
    rows = {}
    for split, patient, file, finding, origin in three:
        origin = {"rnsa": "rsna"}.get(origin, origin)
        rows[f"{split}/{file}"] = {
            "patient_id": f"{name}:{origin}:{patient}",
            "split": "test" if (origin, patient) == ("ricord", "9") else split,
            "official_split": split,
            "origin": origin,
            "finding": finding,
            "label_covid_19": int(finding in ("COVID-19", "positive")),
        }
        if labels == 3:
            rows[f"{split}/{file}"]["label_non_covid_pneumonia"] = int(finding == "pneumonia")
            rows[f"{split}/{file}"]["label_no_pneumonia"] = int(finding == "normal")
    return three, rows


def covidx(root, version="9A", below="labels/"):
    lines, rows = covidx_rows(f"covidx-{version.lower()}", 2 if version == "9B" else 3)
    lines.append(("train", "z", "zip-lacks-it.png", lines[0][3], "bimcv"))
    tables = [f"{below}{split}_COVIDx{version}.txt" for split in ("train", "test")]
    for split, table in zip(("train", "test"), tables, strict=True):
        write(root, table, "".join(f"{' '.join(cells)}\n" for place, *cells in lines if place == split))
    pictures(root, rows)
    return tree(rows, missing=["train/zip-lacks-it.png"], tables=tables)


def make_covidx_9a(root):
    return covidx(root)


def make_covidx_9b(root):
    return covidx(root, "9B", "")


def make_covidx_5(root):
    return covidx(root, "5")


def make_covid_chestxray(root):
    write(
        root,
        "metadata.csv",
        "patientid,offset,sex,age,finding,RT_PCR_positive,survival,view,modality,date,location,folder,filename,doi,url,"
        "license,clinical_notes,other_notes,\n"
        '2,0,M,65,Pneumonia/Viral/COVID-19,Y,Y,PA,X-ray,"January 22, 2020","Hanoi, Vietnam",images,a.jpg,10.1/x,u,'
        'CC BY,"n,\nm",,\n'
        "2,3,M,65,Pneumonia/Viral/COVID-19,Y,Y,AP Supine,X-ray,,,images,b.jpeg,,,CC BY,,,\n"
        "4,0,F,,Pneumonia,,,L,X-ray,,,images,c.png,,,CC BY-NC-SA,,,\n"
        "5,,F,42.0,todo,,,AP,X-ray,,,images,d.png,,,,,,\n"
        "6,,,31,No Finding,,,AP Erect,X-ray,,,images,e.png,,,,,,\n"
        "7,,M,31,Pneumonia/Viral/COVID-19,,,Axial,CT,,,volumes,f.nii.gz,,,,,,\n"
        "8,,M,31,Tuberculosis,,,PA,X-ray,,,images,gone.png,,,,,,\n",
    )
    covid = {"label_covid_19": 1, "label_viral_pneumonia": 1, "label_pneumonia": 1, "label_sars": 0, "sex": "M"}
    covid |= {"patient_id": "covid-chestxray:2", "label_no_finding": 0, "licence": "CC BY", "age": 65}
    rows = {
        "images/a.jpg": covid | {"view_position": "PA", "site": "Hanoi, Vietnam", "offset": "0"},
        "images/b.jpeg": covid | {"view_position": "AP", "offset": "3"},
        "images/c.png": {
            "view_position": "LATERAL",
            "age": NAN,
            "label_pneumonia": 1,
            "label_viral_pneumonia": NAN,
            "label_covid_19": NAN,
            "label_tuberculosis": 0,
            "licence": "CC BY-NC-SA",
        },
        "images/d.png": {"sex": "F", "age": 42, "label_pneumonia": NAN, "label_no_finding": NAN},
        "images/e.png": {"view_position": "", "sex": "", "label_no_finding": 1, "label_covid_19": 0},
    }
    pictures(root, rows)
    return tree(rows, missing=["images/gone.png"], tables=["metadata.csv"])


def make_covid_radiography(root):
    write(
        root,
        "COVID.metadata.csv",
        "FILE NAME,FORMAT,SIZE,URL\nCOVID-1,PNG,256*256,https://sirm.org/x\nCOVID-2,PNG,256*256,https://bimcv.es/y\n",
    )
    write(root, "Normal.metadata.csv", "FILE NAME,FORMAT,SIZE,URL\nNORMAL-1,PNG,256*256,https://kaggle.com/rsna\n")
    covid = {"label_covid_19": 1, "label_normal": 0, "label_lung_opacity": NAN, "label_viral_pneumonia": NAN}
    rows = {
        "COVID/images/COVID-1.png": covid | {"origin": "https://sirm.org/x", "finding": "COVID"},
        "COVID/images/COVID-2.png": covid | {"origin": "https://bimcv.es/y"},
        "Lung_Opacity/images/Lung_Opacity-1.png": {"label_lung_opacity": 1, "label_covid_19": 0, "origin": ""},
        "Normal/images/Normal-1.png": {"label_normal": 1, "label_covid_19": 0, "origin": "https://kaggle.com/rsna"},
        "Viral Pneumonia/images/Viral Pneumonia-1.png": {"label_viral_pneumonia": 1, "label_normal": 0},
    }
    pictures(root, rows)
    for path in rows:
        picture(root, path.replace("/images/", "/masks/"))
    write(root, "README.md.txt", "x")
    return tree(rows)


def make_kermany(root):
    sick = {"view_position": "AP", "label_pneumonia": 1}
    bacteria = sick | {"label_bacterial_pneumonia": 1, "label_viral_pneumonia": 0}
    virus = sick | {"label_bacterial_pneumonia": 0, "label_viral_pneumonia": 1}
    normal = {"label_pneumonia": 0, "label_bacterial_pneumonia": 0, "label_viral_pneumonia": 0, "patient_id": ""}

    def of(number, official, split):
        return {"patient_id": f"kermany:person{number}", "official_split": official, "split": split}

    rows = {
        "chest_xray/train/NORMAL/IM-0115-0001.jpeg": normal | {"split": "train", "official_split": "train"},
        "chest_xray/train/NORMAL/NORMAL2-IM-0666-0001.jpeg": normal | {"split": "train"},
        "chest_xray/train/PNEUMONIA/person1000_bacteria_2931.jpeg": bacteria | of(1000, "train", "train"),
        "chest_xray/train/PNEUMONIA/person1000_virus_1681.jpeg": virus | of(1000, "train", "train"),
        # The number is in train and in test, and in train and in val.
        "chest_xray/train/PNEUMONIA/person1_bacteria_1.jpeg": bacteria | of(1, "train", "test"),
        "chest_xray/train/PNEUMONIA/person1946_bacteria_4875.jpeg": bacteria | of(1946, "train", "val"),
        "chest_xray/val/PNEUMONIA/person1946_bacteria_4874.jpeg": bacteria | of(1946, "val", "val"),
        "chest_xray/val/NORMAL/NORMAL2-IM-1427-0001.jpeg": normal | {"split": "val"},
        "chest_xray/test/PNEUMONIA/person1_virus_6.jpeg": virus | of(1, "test", "test"),
        "chest_xray/test/NORMAL/IM-0001-0001.jpeg": normal | {"split": "test"},
    }
    pictures(root, rows)
    for junk in ("chest_xray/chest_xray/train/NORMAL/IM-0115-0001.jpeg", "chest_xray/train/NORMAL/._IM-0115-0001.jpeg"):
        picture(root, junk)
    write(root, "chest_xray/train/.DS_Store", "x")
    return tree(rows)


def mendeley_kermany(root):
    """The zip as published: disease, patient and number of the image in a name, and no folder val."""
    normal = {"label_pneumonia": 0, "label_bacterial_pneumonia": 0, "label_viral_pneumonia": 0}
    bacteria = {"label_pneumonia": 1, "label_bacterial_pneumonia": 1, "label_viral_pneumonia": 0}
    virus = {"label_pneumonia": 1, "label_bacterial_pneumonia": 0, "label_viral_pneumonia": 1}
    below = "CellData/chest_xray/"
    rows = {
        f"{below}train/NORMAL/NORMAL-239549-0001.jpeg": normal | {"patient_id": "kermany:239549", "split": "train"},
        f"{below}train/PNEUMONIA/BACTERIA-155541-0003.jpeg": bacteria | {"split": "train"},
        f"{below}train/PNEUMONIA/BACTERIA-155541-0004.jpeg": bacteria | {"patient_id": "kermany:155541"},
        f"{below}test/PNEUMONIA/VIRUS-614452-0001.jpeg": virus | {"patient_id": "kermany:614452", "split": "test"},
    }
    pictures(root, rows)
    return tree(rows)


def make_shenzhen(root):
    below = "ChinaSet_AllFiles/CXR_png/"
    rows = {
        f"{below}CHNCXR_0001_0.png": {"label_tuberculosis": 0, "sex": "M", "age": 45, "reading": "male 45yrs normal"},
        f"{below}CHNCXR_0002_0.png": {"label_tuberculosis": 0, "sex": "F", "age": 0.5},
        f"{below}CHNCXR_0327_1.png": {"label_tuberculosis": 1, "sex": "F", "age": 24},
        f"{below}CHNCXR_0328_1.png": {"label_tuberculosis": 1, "sex": "", "age": NAN, "reading": "", "patient_id": ""},
        f"{below}CHNCXR_0329_1.png": {"label_tuberculosis": 1, "sex": "M", "age": 61},
    }
    pictures(root, rows)
    picture(root, f"{below}Thumbs_0.png")
    texts = {"0001_0": "male  45yrs\nnormal\r\n", "0002_0": "Female, 6 months\nnormal", "0327_1": "female 24yrs\nSTB"}
    for number, text in texts.items():
        write(root, f"ChinaSet_AllFiles/ClinicalReadings/CHNCXR_{number}.txt", text)
    # Not UTF-8, as old texts are.
    (root / "ChinaSet_AllFiles/ClinicalReadings/CHNCXR_0329_1.txt").write_bytes(b"male 61yrs\nPTB \xa3\xac left\n")
    return tree(rows)


def make_montgomery(root):
    below = "MontgomerySet/CXR_png/"
    rows = {
        f"{below}MCUCXR_0001_0.png": {"label_tuberculosis": 0, "sex": "F", "age": 27},
        f"{below}MCUCXR_0002_0.png": {"label_tuberculosis": 0, "sex": "M", "age": 0.5},
        f"{below}MCUCXR_0104_1.png": {"label_tuberculosis": 1, "sex": "", "age": NAN},
        f"{below}MCUCXR_0108_1.png": {"label_tuberculosis": 1, "reading": "", "view_position": ""},
        f"{below}MCUCXR_0113_1.png": {"label_tuberculosis": 1, "split": ""},
    }
    pictures(root, rows)
    for side in ("leftMask", "rightMask"):
        picture(root, f"MontgomerySet/ManualMask/{side}/MCUCXR_0001_0.png")
    texts = {
        "0001_0": "Patient's Sex: F\nPatient's Age: 027Y\nnormal\n",
        "0002_0": "Patient's Sex: M\r\nPatient's Age: 006M\r\nnormal\r\n",
        "0104_1": "Patient's Sex: O\nPatient's Age:\ncavitary infiltrate\n",
    }
    for number, text in texts.items():
        write(root, f"MontgomerySet/ClinicalReadings/MCUCXR_{number}.txt", text)
    return tree(rows)


def make_tbx11k(root):
    def coco(names, boxes):
        images = [{"id": number, "file_name": name, "width": 512, "height": 512} for number, name in names.items()]
        annotations = [
            {"id": place, "image_id": image, "category_id": kind, "bbox": box, "area": 1.0, "iscrowd": 0}
            for place, (image, kind, box) in enumerate(boxes, 1)
        ]
        names = {1: "ActiveTuberculosis", 2: "ObsoletePulmonaryTuberculosis", 3: "PulmonaryTuberculosis"}
        kinds = [{"id": number, "name": name} for number, name in names.items()]
        return json.dumps({"images": images, "annotations": annotations, "categories": kinds})

    trained = {1: "health/h0001.png", 2: "sick/s0001.png", 3: "tb/tb0003.png", 4: "tb/tb1199.png", 9: "tb/gone.png"}
    boxes = [(3, 1, [10.5, 20, 30, 40]), (3, 2, [1, 2, 3, 4])]
    write(root, "annotations/json/TBX11K_train.json", coco(trained, boxes))
    boxes = [(1, 2, [5, 5, 5, 5]), (2, 3, [6] * 4)]
    write(root, "annotations/json/TBX11K_val.json", coco({1: "tb/tb0005.png", 2: "tb/tb0006.png"}, boxes))
    write(root, "lists/TBX11K_val.txt", "tb/tb0005.png\ntb/tb0006.png\nhealth/h0009.png\n")
    active, latent = "label_active_tuberculosis", "label_latent_tuberculosis"
    rows = {
        "imgs/health/h0001.png": {"split": "train", "label_healthy": 1, "label_tuberculosis": 0, active: 0},
        "imgs/sick/s0001.png": {"split": "train", "label_sick_non_tuberculosis": 1, "label_tuberculosis": 0, latent: 0},
        "imgs/tb/tb0003.png": {active: 1, latent: 1, "shapes": "1 10.5 20 30 40;2 1 2 3 4", "label_tuberculosis": 1},
        "imgs/tb/tb1199.png": {active: NAN, latent: NAN, "shapes": "", "label_tuberculosis": 1},
        "imgs/tb/tb0005.png": {"split": "val", active: 0, latent: 1},
        "imgs/tb/tb0006.png": {"split": "val", active: NAN, latent: NAN, "label_tuberculosis": 1},
        "imgs/health/h0009.png": {"split": "val", "label_healthy": 1},
        "imgs/test/test_0001.png": {"split": "test", "label_healthy": NAN, "label_tuberculosis": NAN},
    }
    pictures(root, rows)
    picture(root, "imgs/extra/mc/MCUCXR_0001_0.png")
    return tree(
        rows,
        missing=["imgs/tb/gone.png"],
        tables=[f"annotations/json/TBX11K_{split}.json" for split in ("train", "val")],
    )


def make_object_cxr(root):
    write(
        root,
        "train.csv",
        'image_path,annotation\n/x/train/00001.jpg,0 10 20 30 40;2 1 2 3 4 5 6\n00002.jpg,\n3.jpg,""\n',
    )
    write(root, "dev.csv", "image_name,annotation\n08001.jpg,1 765 1022 1000 1200\n08002.jpg,\n08003.jpg,\n")
    one = {"label_foreign_object": 1, "patient_id": "", "view_position": ""}
    none = {"label_foreign_object": 0, "shapes": ""}
    rows = {
        "train/00001.jpg": one | {"split": "train", "shapes": "0 10 20 30 40;2 1 2 3 4 5 6"},
        "train/00002.jpg": none | {"split": "train"},
        "train/3.jpg": none | {"split": "train"},
        "dev/08001.jpg": one | {"split": "val", "shapes": "1 765 1022 1000 1200"},
        "dev/08002.jpg": none | {"split": "val"},
    }
    pictures(root, rows)
    return tree(rows, missing=["dev/08003.jpg"], tables=["train.csv", "dev.csv"])


def make_jsrt(root):
    rows = {
        "nodule/JPCLN001.png": {"label_nodule": 1, "patient_id": "", "split": ""},
        "nodule/JPCLN002.png": {"label_nodule": 1},
        "nodule/JPCLN154.png": {"label_nodule": 1},
        "normal/JPCNN001.png": {"label_nodule": 0},
        "normal/jpcnn093.png": {"label_nodule": 0},
    }
    pictures(root, rows)
    # A second form of a film, a mask with a film's name, and the raw file.
    picture(root, "small/JPCLN001.jpg")
    picture(root, "scratch/masks/heart/JPCLN001.png")
    write(root, "nodule/JPCLN001.IMG", "raw")
    return tree(rows)


def make_folder(root):
    rows = {name: {"patient_id": "", "split": ""} for name in ("a/1.png", "a/2.jpg", "b/c/3.png", "4.png", "z.jpeg")}
    pictures(root, rows)
    write(root, "notes.txt", "x")
    picture(root, ".hidden/5.png")
    return tree(rows)


def make_csv_manifest(root):
    write(
        root,
        "manifest.csv",
        "path,patient_id,source,view,split,age,label_effusion,remark\na.png,007,clinic,PA,train,61.5,1,x\n"
        'b.png,007,clinic,AP,train,,0,"y,z"\nc.png,008,,LATERAL,test,40,,\nd.png,,,,,,,\ngone.png,009,,PA,val,1,0,\n',
    )
    rows = {
        "a.png": {"patient_id": "007", "view_position": "PA", "age": 61.5, "label_effusion": 1, "origin": "clinic"},
        "b.png": {"patient_id": "007", "view_position": "AP", "age": NAN, "label_effusion": 0, "remark": "y,z"},
        "c.png": {"patient_id": "008", "split": "test", "label_effusion": NAN, "origin": ""},
        "d.png": {"patient_id": "", "split": ""},
    }
    pictures(root, rows)
    return tree(rows, missing=["gone.png"], tables=["manifest.csv"])


TREES = {
    name.removeprefix("make_").replace("_", "-"): made
    for name, made in list(globals().items())
    if name.startswith("make_")
}
