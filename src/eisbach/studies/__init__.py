"""Studies: a folder a claim, with what would decide it, the code that runs it, the code that judges it, and its last
result.

`contract` says what such a folder holds, `running` runs and judges one, `page` shows all. A study may import anything
of the package; nothing but the command line imports a study.
"""
