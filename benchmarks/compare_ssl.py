"""Which objective is best at equal compute: `cxrbase compare`, as a script.

python benchmarks/compare_ssl.py --config experiments/compare.yaml --budget images
"""

import sys

from cxrbase.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
