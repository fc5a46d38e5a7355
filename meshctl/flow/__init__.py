"""Flow: the river, and the only room that knows both core and shell.

    river.py    mesh.yaml ─read→ Files ─resolve→ Desired ─observe→ Reports ─diff→ Plan; status, render
    safely.py   Plan ─apply→ Outcome: stage everywhere, switch, prove, then confirm or roll back; remove
    trust.py    SSH host keys into mesh.lock
    rotating.py Plan, twice: the next keys beside the current ones, then alone
    labs.py     a mesh file's rehearsal on this machine

Nothing here prints: what happens on the way is told to a Progress, and results are values.
"""
