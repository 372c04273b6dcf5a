"""Reads an RLDS dataset with the real tensorflow_datasets; runs in an environment that has it.

python tfds_reader.py FOLDER     a line of JSON on each episode of each split
"""

import json
import sys


def main(folder: str) -> None:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    for split in builder.info.splits:
        for episode in tfds.as_numpy(builder.as_dataset(split=split)):
            steps = list(episode["steps"])
            images = [name for name in steps[0]["observation"] if name != "state"]
            print(
                json.dumps(
                    {
                        "split": split,
                        "count": builder.info.splits[split].num_examples,
                        "text": steps[0]["language_instruction"].decode(),
                        "state": [step["observation"]["state"].tolist() for step in steps],
                        "action": [step["action"].tolist() for step in steps],
                        "is_last": [bool(step["is_last"]) for step in steps],
                        "greys": {
                            name: [float(step["observation"][name].mean()) for step in steps]
                            for name in images
                        },
                        "licence": episode["episode_metadata"]["licence"].decode(),
                    }
                )
            )


if __name__ == "__main__":
    main(sys.argv[1])
