"""Counts in an SQLite database: make MODE, count MODE NAME TIMES, check."""
import sqlite3
import sys

path, word, *rest = sys.argv[1:]
database = sqlite3.connect(path, timeout=100, isolation_level=None)
if word != 'check':
    database.execute(f'pragma journal_mode = {rest[0]}')
if word == 'make':
    database.execute('create table total (n)')
    database.execute('insert into total values (0)')
    database.execute('create table steps (name, n)')
elif word == 'count':
    done = 0
    while done < int(rest[2]):
        try:
            database.execute('begin immediate')
            total = database.execute('select n from total').fetchone()[0]
            database.execute('insert into steps values (?, ?)', (rest[1], total))
            database.execute('update total set n = ?', (total + 1,))
            database.execute('commit')
            done += 1
        except sqlite3.OperationalError as error:
            # Somebody else was faster.
            if 'locked' not in str(error):
                raise
            if database.in_transaction:
                database.execute('rollback')
    print(done)
else:
    total = database.execute('select n from total').fetchone()[0]
    steps, different = database.execute('select count(*), count(distinct n) from steps').fetchone()
    print(total, steps, different, database.execute('pragma integrity_check').fetchone()[0])
