/* References under sharing, for spin: clone, look-up, drop, move, allocation, harvest, adoption and recovery, with a
 * death possible before every store. docs/recovery.md ("The model") says what is left out.
 *
 * What is checked
 *   quiet   whenever every lane is at rest, or recovered: a block's count is the number of its references (cells and
 *           slots), a block without references is not live, no freed block is forgotten, every log is closed
 *   always  a holder finds its block live in its generation; only what is being freed becomes free, and only what is
 *           free is allocated; no run stops before every lane is at rest, so no operation stays open
 *
 * How it is kept small
 *   A lane's cells, log and sequence are its recoverer's only when it is dead. Stores to them commute with whatever
 *   others do, so they are taken together with the one access to a shared word beside them: `atomic` holds one such
 *   access, or further ones whose answer cannot change any more. A death may come between any two stores: `step`.
 *   A death before a load leaves what a death before the next store leaves: loads are no steps of their own.
 *   The recoverer runs in the process of the lane that died, since its claim makes it the only one to act for the
 *   lane. With RECOVERERS the claim is modelled too, and they are processes of their own.
 *   What nobody will read (fields of a closed log, variables of a finished operation) becomes 0.
 *
 * `run` beside this file has the configurations, and the mutants: macros that each take one rule away.
 */

#ifndef LANES
#define LANES 3          /* lanes are 1 .. LANES; 0 is nobody */
#endif
#ifndef BLOCKS
#define BLOCKS 2         /* 1 or 2; block 0 is in lane 1's slab, block 1 in lane 2's */
#endif
#ifndef OPERATIONS
#define OPERATIONS 3     /* begun by all lanes together, distributed in any way */
#endif
#ifndef CRASHES
#define CRASHES 2        /* of lanes and recoverers together */
#endif
#ifndef START
#define START 2          /* 0: all blocks free; 1: block 0 is lane 2's alone; 2: all lanes share block 0; 3: and block 1 */
#endif
#ifndef COPIES
#define COPIES 1         /* references that one clone makes: 1 or 2 */
#endif
#ifndef RECOVERERS
#define RECOVERERS 0
#endif

#define CELLS (COPIES + 1)
#define PRODUCER 1
#define CONSUMER LANES
#define SLOTS 1          /* of the stream between them */
#define COUNT_MAX 65535

/* ---- words -------------------------------------------------------------------------------------------- */

#define FREE    0
#define LIVE    1
#define FREEING 2

typedef Word {           /* 128 bits: low {generation, count, state, SHARED}, high {lane, seq}: the tag */
  byte generation;       /* of a free block: the one that it will be handed out in */
  byte count;
  byte state;
  bit  shared;
  byte lane;
  byte seq
};

#define NOTHING 0
#define CLONE   1        /* a look-up too: recovery does the same */
#define DROP    2

#define AT_REST     0
#define PUSH(p)     (1 + 2 * (p))
#define POP(p)      (2 + 2 * (p))
#define is_push(a)  ((a) % 2 == 1)
#define is_pop(a)   ((a) > 0 && (a) % 2 == 0)
#define position(a) (((a) - 1) / 2)

typedef Cell { byte handle; byte aux };

#define ROW_ALIVE      0
#define ROW_RECOVERING 1
#define ROW_FREE       2

typedef Process {        /* one 64-bit word; process n has lane n */
  byte state;
  byte incarnation;
  byte claimer;          /* the recoverer and its incarnation */
  byte claimer_incarnation
};

typedef Row {            /* of a lane */
  byte sequence;         /* of the next logged operation */
  byte log_sequence;     /* the log is open while it equals sequence */
  byte log_operation;
  byte log_handle;
  byte log_cells;        /* bit n: cell n */
  Cell cell[CELLS];
  byte seen[LANES + 1]   /* the highest sequence number of each other lane that it found in a tag */
};

#define handle_of(block, generation) ((generation) * 2 + (block))
#define block_of(handle)             ((handle) & 1)
#define generation_of(handle)        ((handle) >> 1)

Word W[BLOCKS];
bit  remote[BLOCKS];     /* the slab's remote-free bit */
byte owner[BLOCKS];      /* the slab's lane; 0: adoptable */
byte findable[BLOCKS];   /* a handle that look-up may find; set with SHARED, which is the earliest that is allowed */
Row  lane[LANES + 1];

#if RECOVERERS
Process process[LANES + 1];
#endif

byte slot_handle[SLOTS];
byte slot_stamp[SLOTS];  /* position of its message, plus 1 */
byte tail;               /* the producer's */
byte head;               /* the consumer's */

/* ---- what only the model knows ------------------------------------------------------------------------ */

byte operations = OPERATIONS;
byte crashes = CRASHES;
byte busy;               /* lanes in an operation, dead, or being recovered */
hidden byte x, y, references;

#if RECOVERERS           /* what the kernel knows: the incarnation that runs, 0 for none */
byte running[LANES + 1];
byte recoverer_running[RECOVERERS + 1];
#endif

/* A store, or the death that comes before it. */
#define step(store) if :: store :: crashes > 0 -> crashes--; goto dead fi

#define its_cell lane[1 + y / CELLS].cell[y % CELLS]

inline check_quiet() {
  d_step {
    x = 0;
    do
    :: x < BLOCKS ->
       references = 0;
       y = 0;
       do
       :: y < LANES * CELLS ->
          assert(its_cell.aux == AT_REST);
          if
          :: its_cell.handle != 0 && block_of(its_cell.handle) == x ->
             assert(generation_of(its_cell.handle) == W[x].generation);
             references++
          :: else
          fi;
          y++
       :: else -> break
       od;
       y = head;
       do
       :: y < tail ->
          assert(slot_stamp[y % SLOTS] == y + 1);
          if
          :: block_of(slot_handle[y % SLOTS]) == x ->
             assert(generation_of(slot_handle[y % SLOTS]) == W[x].generation);
             references++
          :: else
          fi;
          y++
       :: else -> break
       od;
       assert(slot_stamp[tail % SLOTS] != tail + 1);
       assert((W[x].state == LIVE) == (references > 0));
       assert(W[x].count == references);
       assert(references < 2 || W[x].shared);
       assert(W[x].state != FREEING || remote[x] || owner[x] == 0);
       x++
    :: else -> break
    od;
    x = 1;
    do
    :: x <= LANES -> assert(lane[x].log_sequence != lane[x].sequence); x++
    :: else -> break
    od;
    x = 0; y = 0; references = 0
  }
}

/* ---- what a lane or its recoverer has in its registers ------------------------------------------------- */

#define REGISTERS \
  Word w;          /* a truth word as it was loaded */ \
  byte h, b;       /* the handle and its block */ \
  byte c, into;    /* the cell, and the cells to be filled: bit n for cell n */ \
  bit holder;      /* of a clone: the lane has a cell with the block */ \
  bit must_note;   /* the loaded tag is not in seen yet */ \
  bit logged;      /* the log is open */ \
  bit happened;    /* and its CAS was done */ \
  byte i; \
  bit recovering;  /* acts as a dead lane */

inline forget() {
  d_step {
    w.generation = 0; w.count = 0; w.state = 0; w.shared = 0; w.lane = 0; w.seq = 0;
    h = 0; b = 0; c = 0; into = 0; holder = 0; must_note = 0; logged = 0; happened = 0; i = 0
  }
}

/* The lane is at rest again, by itself or by its recoverer. */
inline settle() {
  forget();
  assert(busy > 0);
  busy--;
  if
  :: busy == 0 -> check_quiet()
  :: else
  fi
}

#define settle_unless_recovering if :: !recovering -> settle() :: else fi

/* ---- the truth word ----------------------------------------------------------------------------------- */

inline load_low() {
  d_step {
    w.generation = W[b].generation; w.count = W[b].count; w.state = W[b].state; w.shared = W[b].shared
  }
}

#define handle_in(n) lane[me].cell[n].handle
#define vacant(n)    (lane[me].cell[n].handle == 0)

#define foreign_tag (w.lane != 0 && w.lane != me)

/* Nobody else writes this lane's seen row, so whether it must be raised can be told now. */
inline load_tag() {
  d_step {
    w.lane = W[b].lane; w.seq = W[b].seq;
#if defined(SEEN_NEVER) || defined(SEEN_LATE)
    must_note = 0
#elif defined(SEEN_NO_MAX)
    must_note = foreign_tag && lane[me].seen[w.lane] != w.seq
#else
    must_note = foreign_tag && lane[me].seen[w.lane] < w.seq
#endif
  }
}

/* TORN: the load is two loads of 64 bits, in either order. A CAS that fails returns all 128 bits at once. */
#if defined(TORN) && TORN == 1
#define load load_low()
#define rest_of_load atomic { load_tag() };
#elif defined(TORN)
#define load load_tag()
#define rest_of_load atomic { load_low() };
#else
#define load load_low(); load_tag()
#define rest_of_load
#endif

inline reload() {
  load_low(); load_tag();
#ifdef SEEN_ONCE
  must_note = 0
#endif
}

#define unchanged (W[b].generation == w.generation && W[b].count == w.count && W[b].state == w.state && \
                   W[b].shared == w.shared && W[b].lane == w.lane && W[b].seq == w.seq)

inline note_tag() {
  step(lane[me].seen[w.lane] = w.seq);
  must_note = 0
}

/* What comes right after a CAS: nothing, but for two mutants, the first of which gives up atomicity for it. */
#if defined(SEEN_LATE)
#define chain
#define untold (foreign_tag && lane[me].seen[w.lane] < w.seq)
#define after_cas(operation, cells) if :: atomic { untold -> note_tag() } :: !untold fi;
#elif defined(LOG_LATE)
#define chain atomic
#define after_cas(operation, cells) step(log_fields(operation, cells));
#else
#define chain atomic
#define after_cas(operation, cells)
#endif

/* ---- the log ------------------------------------------------------------------------------------------ */

inline log_fields(operation, cells) {
  d_step { lane[me].log_operation = operation; lane[me].log_handle = h; lane[me].log_cells = cells }
}

/* Until it is open a log is not read: a death before that is one before the operation. */
inline open_log(operation, cells) {
#if !defined(LOG_LATE) && !defined(LOG_UNORDERED)
  log_fields(operation, cells);
#endif
  lane[me].log_sequence = lane[me].sequence;
#ifdef LOG_UNORDERED     /* with the fields of the operation before */
  step(log_fields(operation, cells))
#endif
}

inline close_log() {
  step(lane[me].sequence++);
#ifndef LOG_UNORDERED
  d_step {
    lane[me].log_sequence = 0; lane[me].log_operation = NOTHING; lane[me].log_handle = 0; lane[me].log_cells = 0
  }
#endif
}

/* ---- operations, by a lane or as a dead one ----------------------------------------------------------- */

/* Filled aux first, emptied handle first; aux is 0 on both sides of these. */
inline fill_cells(cells) {
  if :: (cells) & 1 -> step(lane[me].cell[0].handle = h) :: else fi;
  if :: (cells) & 2 -> step(lane[me].cell[1].handle = h) :: else fi;
#if CELLS > 2
  if :: (cells) & 4 -> step(lane[me].cell[2].handle = h) :: else fi;
#endif
}

inline empty_cell() {
  step(lane[me].cell[c].handle = 0)
}

#define in_generation (w.generation == generation_of(h))
#define copies ((into & 1) + (into >> 1 & 1) + (into >> 2))

/* A holder's block is live. Anybody else needs SHARED, and a reference that the CAS then finds still there. */
#ifdef FIND_UNSHARED
#define clonable (w.state == LIVE && in_generation && w.count > 0 && w.count + copies <= COUNT_MAX)
#else
#define clonable (w.state == LIVE && in_generation && w.count > 0 && w.count + copies <= COUNT_MAX && \
                  (w.shared || holder))
#endif

inline open_clone() {
  open_log(CLONE, into);
  load
}

inline clone() {         /* h into the cells `into`, from where open_clone ends */
  rest_of_load
  do
  :: atomic {
       !clonable ->
       assert(!holder);
       close_log();
       settle();
       break
     }
  :: atomic { clonable && must_note -> note_tag() }
  :: chain {
       clonable && !must_note ->
       if
       :: atomic {
            unchanged ->
            step(d_step {
#ifndef CLONE_UNMARKED
              W[b].shared = 1; findable[b] = h;
#endif
              W[b].count = w.count + copies; W[b].lane = me; W[b].seq = lane[me].sequence })
          };
          after_cas(CLONE, into)
          atomic {
#ifdef CELLS_LATE
            close_log();
            fill_cells(into);
#else
            fill_cells(into);
            close_log();
#endif
            settle()
          };
          break
       :: atomic { !unchanged -> reload() }
       fi
     }
  od
}

inline make_free() {     /* the owner's plain store of the low half: the tag stays */
  d_step {
    assert(W[b].generation == generation_of(h) && W[b].state != FREE);
    W[b].generation++; W[b].count = 0; W[b].state = FREE; W[b].shared = 0;
    findable[b] = 0
  }
}

/* A block that is FREEING is the owner's to free. */
inline give_back() {
  if
  :: owner[b] == me -> step(make_free())
  :: else -> step(remote[b] = 1)
  fi
}

inline finish_drop() {
#ifdef CELL_LATE
  close_log();
  empty_cell()
#else
  empty_cell();
  close_log()
#endif
}

inline shared_drop() {   /* h, in cell c */
  rest_of_load
  do
  :: atomic { must_note -> note_tag() }
  :: chain {
       !must_note ->
       if
       :: atomic {
            unchanged ->
            assert(w.state == LIVE && in_generation && w.count > 0);
            step(d_step {
              W[b].count = w.count - 1; W[b].state = (w.count == 1 -> FREEING : LIVE);
              W[b].lane = me; W[b].seq = lane[me].sequence })
          };
          after_cas(DROP, 1 << c)
          if
          :: atomic { w.count > 1 -> finish_drop(); settle_unless_recovering }
          :: w.count == 1
          fi;
          break
       :: atomic { !unchanged -> reload() }
       fi
     }
  od;
  if
  :: atomic { w.count == 1 -> give_back(); finish_drop(); settle_unless_recovering }
  :: w.count != 1
  fi
}

/* Not SHARED: nobody else writes the word, so plain stores do. */
#define assert_sole assert(W[b].state == LIVE && W[b].generation == generation_of(h) && W[b].count == 1)

inline sole_drop() {     /* h, in cell c */
  if
  :: atomic {
       owner[b] == me ->
       assert_sole;
       step(make_free());
       empty_cell();
       settle_unless_recovering
     }
  :: atomic {
       owner[b] != me ->
       assert_sole;
       step(d_step { W[b].count = 0; W[b].state = FREEING })
     };
     atomic {
       step(remote[b] = 1);
       empty_cell();
       settle_unless_recovering
     }
  fi
}

#ifdef PLAIN_SHARED
#define sole (w.count == 1)
#else
#define sole (!w.shared)
#endif

#define shared_reference (in_generation && w.state == LIVE && !(sole))

/* To a holder LIVE and SHARED do not change: the first load and the one under the log may be taken as one. */
inline open_drop() {     /* the reference in cell c */
  h = handle_in(c);
  b = block_of(h);
  load_low();
  logged = shared_reference;
  if
  :: logged -> open_log(DROP, 1 << c); load
  :: else
  fi
}

/* A cell whose generation is over, or not live yet, is void: only recovery meets one. */
inline drop() {          /* the reference in cell c, from where open_drop ends */
  if
  :: logged -> shared_drop()
  :: !logged && in_generation && w.state == LIVE -> sole_drop()
  :: atomic { !logged && in_generation && w.state == FREEING -> assert(recovering); give_back(); empty_cell() }
  :: atomic { !logged && !(in_generation && w.state != FREE) -> assert(recovering); empty_cell() }
  fi
}

/* ---- recovery ----------------------------------------------------------------------------------------- */

inline note_own_tag() {
  must_note = 0;
  happened = happened || (logged && w.lane == me && w.seq == lane[me].sequence)
}

inline read_log() {
  logged = lane[me].log_sequence == lane[me].sequence;
  if
  :: logged -> h = lane[me].log_handle; b = block_of(h)
  :: else
  fi
}

inline read_seen() {
  i = 1;
  do
  :: atomic { i <= LANES && logged && !happened -> happened = lane[i].seen[me] >= lane[me].sequence; i++ }
  :: i > LANES || !logged || happened -> break
  od
}

inline act_on_log() {
  if
  :: logged && happened && lane[me].log_operation == CLONE ->
     fill_cells(lane[me].log_cells);
     close_log()
  :: logged && happened && lane[me].log_operation == DROP ->
     c = (lane[me].log_cells & 1 -> 0 : (lane[me].log_cells & 2 -> 1 : 2));
     if
#if defined(FREE_BY_ANYBODY)
     :: in_generation && w.state == FREEING -> step(make_free())
#elif !defined(ZERO_UNTOLD)
     :: in_generation && w.state == FREEING -> give_back()
#endif
     :: else
     fi;
     finish_drop()
  :: logged && !happened -> close_log()
  :: else -> assert(!logged || lane[me].log_operation == NOTHING)
  fi;
  forget()
}

/* The CAS of the open log happened if the word carries its tag, or if somebody who found it there has noted that.
 * The word first: who overwrites a tag has noted it before. */
#ifdef SEEN_FIRST
#define decide atomic { read_log() }; read_seen(); atomic { load }; rest_of_load note_own_tag()
#elif defined(TORN)
#define decide atomic { read_log(); load }; rest_of_load note_own_tag(); read_seen()
#else
#define decide atomic { read_log(); load; note_own_tag() }; read_seen()
#endif

#define aux_of(n) lane[me].cell[n].aux

/* The stamp of a slot that this lane fills, and the head that it advances, are nobody else's to write. */
inline finish_moves() {
  i = 0;
  do
  :: i < CELLS ->
     if
     :: is_push(aux_of(i)) && slot_stamp[position(aux_of(i)) % SLOTS] == position(aux_of(i)) + 1 ->
        step(handle_in(i) = 0)
     :: is_pop(aux_of(i)) && head <= position(aux_of(i)) ->
        step(handle_in(i) = 0)
     :: else
     fi;
     if
     :: aux_of(i) != AT_REST -> step(aux_of(i) = AT_REST)
     :: else
     fi;
     i++
  :: else -> break
  od;
  i = 0
}

inline next_reference() {
  do
  :: i < CELLS && vacant(i) -> i++
  :: else -> break
  od;
  if
  :: i < CELLS -> c = i; open_drop()
  :: else
  fi
}

inline drop_ledger() {   /* from where the first next_reference ends */
  do
  :: i < CELLS ->
     drop();
     atomic { next_reference() }
  :: i == CELLS -> break
  od;
  forget()
}

inline release_slab(n) {
  if
  :: owner[n] == me -> step(owner[n] = 0)
  :: else
  fi
}

inline release() {
  atomic {
    if
    :: me == PRODUCER && slot_stamp[tail % SLOTS] == tail + 1 -> step(tail++)
    :: else
    fi;
    release_slab(0)
  };
#if BLOCKS > 1
  atomic { release_slab(1) };
#endif
}

inline recover() {
#ifdef RELEASE_FIRST
  release();
#endif
#if defined(LEDGER_BEFORE_OPERATION)
  atomic { finish_moves(); next_reference() };
  drop_ledger();
  decide;
  atomic { act_on_log() };
#elif defined(LEDGER_BEFORE_MOVES)
  decide;
  atomic { act_on_log() };
  atomic { next_reference() };
  drop_ledger();
  atomic { finish_moves() };
#else
  decide;
  atomic { act_on_log() };
  atomic { finish_moves(); next_reference() };
  drop_ledger();
#endif
#ifdef SEQUENCE_RESET
  atomic { step(lane[me].sequence = 1) };
#endif
  release();
}

/* ---- a lane -------------------------------------------------------------------------------------------- */

#if CELLS == 2
#define first_vacant (vacant(0) -> 1 : (vacant(1) -> 2 : 0))
#define all_vacant_but(n) (vacant(1 - n) -> 2 - n : 0)
#else
#define first_vacant (vacant(0) -> 1 : (vacant(1) -> 2 : (vacant(2) -> 4 : 0)))
#define all_vacant_but(n) (vacant((n + 1) % 3) && vacant((n + 2) % 3) -> 7 - (1 << n) : 0)
#endif

/* What a lane at rest may begin, for each of its cells and for each block. */
#define begin_with_cell(n) \
  atomic { \
    operations > 0 && !vacant(n) -> \
    operations--; busy++; c = n; h = handle_in(n); b = block_of(h); into = all_vacant_but(n); \
    if \
    :: into != 0 -> holder = 1; open_clone(); goto cloning \
    :: into = 0; open_drop(); goto dropping \
    :: me == PRODUCER && tail - head < SLOTS -> goto pushing \
    fi \
  }

#define begin_with_block(n) \
  atomic { operations > 0 && findable[n] != 0 && first_vacant != 0 -> \
           operations--; busy++; into = first_vacant; h = findable[n]; b = n; goto finding } \
  :: \
  atomic { operations > 0 && owner[n] == me && W[n].state == FREE && first_vacant != 0 -> \
           operations--; busy++; into = first_vacant; h = handle_of(n, W[n].generation); b = n; goto allocating } \
  :: \
  atomic { operations > 0 && owner[n] == me && remote[n] -> \
           operations--; busy++; b = n; remote[n] = 0; goto sweeping } \
  :: \
  atomic { operations > 0 && owner[n] == 0 -> \
           operations--; busy++; b = n; owner[n] = me; goto sweeping }

proctype Lane(byte me) {
  REGISTERS

end_rest:
  if
  :: begin_with_cell(0)
  :: begin_with_cell(1)
#if CELLS > 2
  :: begin_with_cell(2)
#endif
  :: begin_with_block(0)
#if BLOCKS > 1
  :: begin_with_block(1)
#endif
  :: atomic { me == CONSUMER && slot_stamp[head % SLOTS] == head + 1 && operations > 0 && first_vacant != 0 ->
              operations--; busy++; c = first_vacant >> 1; goto popping }
  :: atomic { crashes > 0 -> crashes--; busy++; goto dead }
  fi;

finding:                 /* what was found may be over by now */
  atomic { open_clone() };
cloning:
  clone();
  goto end_rest;

dropping:
  drop();
  goto end_rest;

allocating:
  atomic {
    assert(W[b].state == FREE);
#ifdef LIVE_BEFORE_CELL
    step(d_step { W[b].count = 1; W[b].state = LIVE });
    fill_cells(into);
#else
    fill_cells(into);
    step(d_step { W[b].count = 1; W[b].state = LIVE });
#endif
#ifdef FIND_UNSHARED
    findable[b] = h;
#endif
    settle();
    goto end_rest
  };

sweeping:                /* harvest, with the bit taken, and adoption, which needs no bit */
  atomic {
    h = handle_of(b, W[b].generation);
    if
    :: W[b].state == FREEING -> step(make_free())
    :: else
    fi;
    settle();
    goto end_rest
  };

pushing:
  atomic {
    step(lane[me].cell[c].aux = PUSH(tail));
#ifdef PUSH_EMPTIES_FIRST
    empty_cell();
#endif
    step(slot_handle[tail % SLOTS] = h);
    step(slot_stamp[tail % SLOTS] = tail + 1);
    step(tail++);
#ifndef PUSH_EMPTIES_FIRST
    empty_cell();
#endif
    step(lane[me].cell[c].aux = AT_REST);
    settle();
    goto end_rest
  };

popping:
  atomic {
    step(lane[me].cell[c].aux = POP(head));
    h = slot_handle[head % SLOTS];
#ifdef POP_ADVANCES_FIRST
    step(head++);
    step(lane[me].cell[c].handle = h);
#else
    step(lane[me].cell[c].handle = h);
    step(head++);
#endif
    step(lane[me].cell[c].aux = AT_REST);
    settle();
    goto end_rest
  };

dead:
#if RECOVERERS
  atomic { forget(); running[me] = 0 };
  atomic {               /* a new process takes the row */
    process[me].state == ROW_FREE ->
    process[me].state = ROW_ALIVE;
    running[me] = process[me].incarnation
  };
#else
  atomic { forget(); recovering = 1 };
  recover();
  atomic { recovering = 0; settle() };
#endif
  goto end_rest
}

/* ---- a recoverer of its own ---------------------------------------------------------------------------- */

#if RECOVERERS
#define is_dead(n) \
  ((process[n].state == ROW_ALIVE && running[n] != process[n].incarnation) || \
   (process[n].state == ROW_RECOVERING && recoverer_running[process[n].claimer] != process[n].claimer_incarnation))

/* Evidence is for one value of the word. Death is for ever, so looking at both at once loses nothing. */
#define find_dead(n) \
  atomic { is_dead(n) -> \
           me = n; evidence.state = process[n].state; evidence.incarnation = process[n].incarnation; \
           evidence.claimer = process[n].claimer; evidence.claimer_incarnation = process[n].claimer_incarnation }

#if defined(CLAIM_BY_STORE)
#define as_examined true
#elif defined(CLAIM_ANY_INCARNATION)
#define as_examined (process[me].state == evidence.state)
#else
#define as_examined (process[me].state == evidence.state && process[me].incarnation == evidence.incarnation && \
                     process[me].claimer == evidence.claimer && \
                     process[me].claimer_incarnation == evidence.claimer_incarnation)
#endif

proctype Recoverer(byte self) {
  REGISTERS
  byte me;               /* the lane that it acts for */
  Process evidence;

end_look:
  if
  :: find_dead(1)
  :: find_dead(2)
#if LANES > 2
  :: find_dead(3)
#endif
  fi;
  if
  :: atomic {
       as_examined ->
       step(d_step {
         process[me].state = ROW_RECOVERING; process[me].claimer = self;
         process[me].claimer_incarnation = recoverer_running[self] });
       recovering = 1
     };
     recover();
     atomic {
       step(d_step {
         process[me].state = ROW_FREE; process[me].incarnation++; process[me].claimer = 0;
         process[me].claimer_incarnation = 0 });
       settle()
     }
  :: !as_examined
  fi;
again:
  d_step {
    forget();
    recovering = 0; me = 0;
    evidence.state = 0; evidence.incarnation = 0; evidence.claimer = 0; evidence.claimer_incarnation = 0
  };
  goto end_look;

dead:                    /* and another is started */
  recoverer_running[self]++;
  goto again
}
#endif

init {
  atomic {
    W[0].generation = 1; owner[0] = 1;
#if BLOCKS > 1
    W[1].generation = 1; owner[1] = 2;
#endif
    x = 1;
    do
    :: x <= LANES ->
       lane[x].sequence = 1;
#if RECOVERERS
       process[x].incarnation = 1; running[x] = 1;
#endif
#if START >= 2
       lane[x].cell[0].handle = handle_of(0, 1);
#endif
#if START == 3
       lane[x].cell[1].handle = handle_of(1, 1);
#endif
       x++
    :: else -> break
    od;
#if START == 1
    lane[2].cell[0].handle = handle_of(0, 1);
    W[0].state = LIVE; W[0].count = 1;
#elif START >= 2
    W[0].state = LIVE; W[0].count = LANES; W[0].shared = 1; findable[0] = handle_of(0, 1);
#endif
#if START == 3
    W[1].state = LIVE; W[1].count = LANES; W[1].shared = 1; findable[1] = handle_of(1, 1);
#endif
    x = 0;
    check_quiet();
    run Lane(1);
    run Lane(2);
#if LANES > 2
    run Lane(3);
#endif
#if RECOVERERS
    recoverer_running[1] = 1;
    run Recoverer(1);
#if RECOVERERS > 1
    recoverer_running[2] = 1;
    run Recoverer(2);
#endif
#endif
  }
}
