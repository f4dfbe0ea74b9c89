package leasing

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestFirstReadClaims(t *testing.T) {
	run(t, `
		read k                  => ?
		join C k                => begun sharing
		state k                 => claiming
		read k                  => ?
		send C
		granted C @5 v@3
		facts C                 => v@3 5
		state k                 => owned@5
		read k                  => v@3 5
		read other              => ?
		claims L1               => 1
	`)
}

func TestAbsentKeysAreOwnedToo(t *testing.T) {
	run(t, `
		join C k                => begun sharing
		send C
		granted C @5 -
		read k                  => - 5
	`)
}

// ---- I1

func TestI1NothingIsServedWhileAWriteIsUnsettled(t *testing.T) {
	run(t, owning("k", 5)+`
		read k                  => v@3 5
		begin W k               => k@5
		state k                 => owned@5 writes=1
		read k                  => ?
		join C k                => no
		applied W @7 k=w@7
		read k                  => w@7 7
	`)
}

func TestI1NothingIsServedWhileARangeWriteIsUnsettled(t *testing.T) {
	run(t, owning("k", 5)+owning("z", 6)+`
		begin W [a,m)           =>
		read k                  => ?
		join C k                => no
		join C j                => no     # nor is anything claimed there
		read z                  => v@3 6
		blocked W @7
		read k                  => v@3 5
		join C j                => begun sharing
	`)
}

func TestI1NothingIsServedUnderALeaseThatIsOver(t *testing.T) {
	run(t, `
		join C k                => begun sharing
		send C S                                # one second
		granted C @5 v@3
		wait 499ms
		read k                  => v@3 5
		wait 1ms
		read k                  => ?
		state k                 => owned@5      # until the session says so
		over S
		state k                 => none
		claims S                => 0
	`)
}

// ---- I4

func TestI4ReadBackOfHighestRevisionCounts(t *testing.T) {
	for _, order := range []string{
		"applied W1 @7 k=a@7\napplied W2 @8 k=b@8\n",
		"applied W2 @8 k=b@8\napplied W1 @7 k=a@7\n",
	} {
		first, second, _ := strings.Cut(order, "\n")
		run(t, owning("k", 5)+`
			begin W1 k              => k@5
			begin W2 k              => k@5
			state k                 => owned@5 writes=2
			`+first+`
			read k                  => ?     # one is still under way
			`+second+`
			read k                  => b@8 8
		`)
	}
}

func TestI4RefusedWriteChangesNothing(t *testing.T) {
	run(t, owning("k", 5)+`
		begin W1 k              => k@5
		begin W2 k              => k@5
		blocked W1 @7 k@5                    # some other guard of it failed
		applied W2 @8 k=b@8
		read k                  => b@8 8
		begin W3 k              => k@5
		unsettled W3
		read k                  => b@8 8
	`)
}

func TestI4WhatWasNotReadBackIsGivenUp(t *testing.T) {
	run(t, owning("k", 5)+owning("j", 6)+`
		begin W j k             => j@6 k@5
		applied W @7 j=! k=w@7  => yield j@6
		state j                 => yielding@6
		read k                  => w@7 7
	`)
	run(t, owning("k", 5)+`
		begin W k               => k@5
		applied W @7            => yield k@5  # nothing was read back at all
	`)
	// Another write of ours that was read back does not make up for it: it may be older.
	run(t, owning("k", 5)+`
		begin W1 k              => k@5
		begin W2 k              => k@5
		applied W1 @7 k=!
		applied W2 @8 k=b@8     => yield k@5
		read k                  => ?
	`)
}

func TestI4KeyWithALeaseIsYielded(t *testing.T) {
	run(t, owning("k", 5)+`
		begin W k               => k@5
		applied W @7 k=w@7+9    => yield k@5
		read k                  => ?
		yielded k@5
		state k                 => none
		claims L1               => 0
	`)
	// Unless a later write of ours has taken the lease off again.
	run(t, owning("k", 5)+`
		begin W1 k              => k@5
		begin W2 k              => k@5
		applied W1 @7 k=a@7+9
		applied W2 @8 k=b@8
		read k                  => b@8 8
	`)
	// In whichever order their replies come.
	run(t, owning("k", 5)+`
		begin W1 k              => k@5
		begin W2 k              => k@5
		applied W2 @8 k=b@8+9
		applied W1 @7 k=a@7     => yield k@5
		read k                  => ?
	`)
}

func TestI4SettledRangeWriteGivesUpWhatItCovered(t *testing.T) {
	run(t, owning("b", 5)+owning("c", 6)+owning("z", 7)+`
		begin W [a,m)
		applied W @9            => yield b@5 c@6
		read b                  => ?
		read z                  => v@3 7
		yielded b@5
		yielded c@6
		state b                 => none
		claims L1               => 1
	`)
}

func TestI4WriteOfAKeyAndOfARangeAroundIt(t *testing.T) {
	run(t, owning("b", 5)+`
		begin W b [a,m)         => b@5
		state b                 => owned@5 writes=2
		applied W @9 b=w@9      => yield b@5
		state b                 => yielding@5
		yielded b@5
		state b                 => none
	`)
}

// ---- I6

func TestI6UnknownBurnsTheGrant(t *testing.T) {
	run(t, owning("k", 5)+`
		begin W k               => k@5
		uncertain W             => yield k@5
		state k                 => yielding@5
		read k                  => ?
		join C k                => no        # until it is confirmed
		yielded k@4                          # of an earlier grant: not it
		join C k                => no
		yielded k@5
		join C k                => begun sharing
	`)
}

func TestI6UnknownBurnsTheGrantWhateverElseSettles(t *testing.T) {
	run(t, owning("k", 5)+`
		begin W1 k              => k@5
		begin W2 k              => k@5
		begin W3 k              => k@5
		applied W1 @7 k=a@7
		uncertain W2            => yield k@5
		applied W3 @8 k=b@8
		read k                  => ?
		state k                 => yielding@5
	`)
}

func TestI6UnknownRangeWriteBurnsWhatItCovered(t *testing.T) {
	run(t, owning("b", 5)+owning("z", 6)+`
		begin W [a,m)
		uncertain W             => yield b@5
		join C b                => no
		yielded b@5
		join C b                => begun sharing
		read z                  => v@3 6
	`)
}

func TestI6WriteOfAnUnownedKeyBurnsNothing(t *testing.T) {
	run(t, `
		begin W k               => k@0
		join C k                => no
		uncertain W
		state k                 => none
		join C k                => begun sharing
	`)
}

func TestI6ClaimWithoutAReplyIsLookedForAndYielded(t *testing.T) {
	run(t, `
		join C k                => begun sharing
		send C
		lost C                  => yield k@?
		facts C                 => ?
		state k                 => yielding@?
		join D k                => no
		claims L1               => 1         # it may hang there
		found k@? 5             => yield k@5
		state k                 => yielding@5
		yielded k@?                          # nothing any more
		join D k                => no
		yielded k@5
		state k                 => none
		claims L1               => 0
	`)
	run(t, `
		join C k                => begun sharing
		send C
		lost C                  => yield k@?
		yielded k@?                          # it was not there
		state k                 => none
		claims L1               => 0
		created k@9             => yield k@9 # but it has come yet
		join D k                => no
		yielded k@9
		join D k                => begun sharing
	`)
}

func TestI6ClaimThatWasNeverSentLeavesNothing(t *testing.T) {
	run(t, `
		join C k                => begun sharing
		unsent C
		facts C                 => ?
		state k                 => none
		join C k                => begun sharing
	`)
}

// ---- I7

func TestI7ForgetBeforeRelease(t *testing.T) {
	for _, news := range []string{
		"revoked k@5 ours => yield k@5",
		"reconcile @9 k@5,ours,revoked => yield k@5",
		"begin W k => k@5\n uncertain W => yield k@5",
		"begin W k => k@5\n applied W @9 k=! => yield k@5",
		"begin W [a,z)\n applied W @9 => yield k@5",
	} {
		run(t, owning("k", 5)+news+`
			read k                  => ?     # before the yield can be sent
			begin W2 k              => k@0!
		`)
	}
}

// ---- I8

func TestI8LateReplyIsDropped(t *testing.T) {
	for name, story := range map[string]string{
		"the REVOKE has overtaken it": `
			revoked k@5 ours        => yield k@5
			granted C @5 v@3        => yield k@5
			state k                 => yielding@5 rests=250ms
			yielded k@5`,
		"the DELETE has overtaken it": `
			deleted k @8
			granted C @5 v@3
			state k                 => none`,
		"both have": `
			revoked k@5 ours        => yield k@5
			deleted k @8
			granted C @5 v@3
			state k                 => idle rests=250ms`,
		"the lease was over meanwhile": `
			over L1
			granted C @5 v@3        => yield k@5
			yielded k@5`,
		"the lease has run out meanwhile, unnoticed": `
			wait 58s
			granted C @5 v@3        => yield k@5
			yielded k@5`,
		"the epoch has passed": `
			over *
			granted C @5 v@3        => yield k@5
			yielded k@5`,
		"a range write began meanwhile": `
			begin W [a,z)
			granted C @5 v@3        => yield k@5
			applied W @7
			yielded k@5`,
		"a range write began and settled meanwhile": `
			begin W [a,z)
			applied W @7
			granted C @8 v@3        => yield k@8
			yielded k@8`,
		"the watch has listed after a gap": `
			reconcile @7
			granted C @5 v@3        => yield k@5
			yielded k@5`,
		"somebody else holds it by now": `
			revoked k@9 theirs
			granted C @5 v@3
			state k                 => idle rests=250ms foreign=1m0s`,
	} {
		t.Run(name, func(t *testing.T) {
			s := run(t, `
				join C k                => begun sharing
				send C
				`+story+`
				read k                  => ?
				facts C                 => v@3 `+pick(strings.Contains(story, "@8 v"), "8", "5")+`
				claims L1               => 0
			`)
			if e := s.c.entries.get("k"); e != nil && e.state != idle {
				t.Errorf("in the end the key is %s", s.state("k"))
			}
		})
	}
}

// News of an earlier grant says nothing about this one.
func TestI8OldNewsIsNotHeldAgainstALaterGrant(t *testing.T) {
	run(t, `
		join C k                => begun sharing
		send C
		revoked k@4 ours        => yield k@4  # answered all the same (I9)
		deleted k @5
		granted C @7 v@3
		read k                  => v@3 7
		revoked k@4 ours
		deleted k @5
		deleted k @7
		created k@4
		created k@7
		read k                  => v@3 7
	`)
}

func TestI8JoinedAfterSentDoesNotShare(t *testing.T) {
	run(t, `
		join C k                => begun sharing
		join C k                => joined sharing
		send C
		join C k                => joined late
		granted C @5 v@3
		join C k                => no
	`)
}

func TestI8WriteWaitsForTheClaimUnderWay(t *testing.T) {
	run(t, `
		join C k                => begun sharing
		begin W j k             => busy k
		state j                 => none
		send C
		begin W k               => busy k
		granted C @5 v@3
		begin W j k             => j@0 k@5
	`)
}

func TestI8ImpatientWriteSpoilsTheClaimUnderWay(t *testing.T) {
	run(t, `
		join C k                => begun sharing
		send C
		begin W k               => busy k
		press W k               => k@0!
		read k                  => ?
		created k@5 ours        => yield k@5    # at once: the write waits for it
		applied W @9 k=!
		granted C @5 v@3        => yield k@5    # nothing is installed
		yielded k@5
		state k                 => none
	`)
	run(t, `
		join C k                => begun sharing
		send C
		press W k               => k@0!
		granted C @5 v@3        => yield k@5
		state k                 => yielding@5 writes=1
		yielded k@5
		applied W @9 k=!
		state k                 => none
	`)
	run(t, `
		join C k                => begun sharing
		send C
		press W k               => k@0!
		lost C                  => yield k@?
		uncertain W
		yielded k@?
		state k                 => none
	`)
}

func TestI8NoClaimUnderARangeWrite(t *testing.T) {
	run(t, `
		begin W1 [a,m)
		begin W2 [k,z)
		join C k                => no
		applied W1 @7
		join C k                => no
		join C b                => begun sharing
		applied W2 @8
		join D k                => begun sharing
	`)
}

// ---- I9

func TestI9EveryRevokeOfAClaimOfOursIsAnswered(t *testing.T) {
	for name, story := range map[string]string{
		"owned":                      owning("k", 5) + "revoked k@5 ours => yield k@5",
		"not remembered":             "revoked k@5 ours => yield k@5",
		"older than the epoch":       owning("k", 4) + "over * \n revoked k@5 ours => yield k@5",
		"a claim is under way":       "join C k => begun sharing \n revoked k@5 ours => yield k@5",
		"under an unsettled write":   owning("k", 5) + "begin W k => k@5 \n revoked k@5 ours => yield k@5",
		"of a later claim than ours": owning("k", 4) + "revoked k@5 ours => yield k@5",
		"listed after a gap":         "reconcile @7 k@5,ours,revoked => yield k@5",
		"another one is on its way":  owning("k", 4) + "revoked k@4 ours => yield k@4 \n revoked k@5 ours => yield k@5",
		"the claim's reply was lost": "join C k => begun sharing \n send C \n lost C => yield k@? \n revoked k@5 ours => yield k@5",
	} {
		t.Run(name, func(t *testing.T) { run(t, story) })
	}
	// Once is enough.
	run(t, owning("k", 5)+`
		revoked k@5 ours        => yield k@5
		revoked k@5 ours
	`)
}

func TestI9RevokeOfSomebodyElsesClaimIsLeftToThem(t *testing.T) {
	run(t, `
		revoked k@5 theirs
		state k                 => idle rests=250ms foreign=1m0s
	`)
}

func TestI9ClaimTakenOffItsLeaseIsStillOurs(t *testing.T) {
	run(t, owning("k", 5)+`
		reconcile @9 k@5,theirs
		read k                  => v@3 5
		revoked k@5 theirs      => yield k@5
		read k                  => ?
	`)
}

func TestI9DeletedClaimIsDroppedAtOnce(t *testing.T) {
	run(t, owning("k", 5)+`
		deleted k @5                         # the one before ours
		read k                  => v@3 5
		deleted k @6            => L1
		read k                  => ?
		state k                 => none
		claims L1               => 0
	`)
	run(t, owning("k", 5)+`
		begin W k               => k@5
		deleted k @6            => L1
		applied W @7 k=w@7                   # it cannot have been, but if it says so
		read k                  => ?
		state k                 => none
	`)
}

func TestI9ClaimThatWasFoundIsNotAdopted(t *testing.T) {
	run(t, `
		created k@5             => yield k@5
		read k                  => ?
		join C k                => no
		yielded k@5
		join C k                => begun sharing
		send C
		refused C @9 v@3 k@7 ours   => yield k@7
		facts C                 => v@3 9
		read k                  => ?
		join C k                => no
		yielded k@7
		state k                 => none
		claims L1               => 0
	`)
}

func TestI9OurOwnClaimIsNoNews(t *testing.T) {
	run(t, `
		join C k                => begun sharing
		send C
		created k@5
		granted C @5 v@3
		created k@5
		read k                  => v@3 5
	`)
}

// The claim whose reply was lost comes to light while another is under way
// that is never made. Nobody else will see to it.
func TestI9LostClaimIsNotOverlookedForAnother(t *testing.T) {
	run(t, `
		join C k                => begun sharing
		send C
		lost C                  => yield k@?
		yielded k@?                          # it was not there yet
		join D k                => begun sharing
		created k@9                          # now it is
		unsent D                => yield k@9 # for want of a lease, say
	`)
}

// ---- I10

func TestI10HighestRevisionNeverFalls(t *testing.T) {
	s := run(t, `
		join C k                => begun sharing
		send C
		granted C @5 v@3
		begin W k               => k@5
		applied W @9 k=w@9
		begin V k               => k@5
		blocked V @8 k@5
	`)
	if got := s.c.seen.Load(); got != 9 {
		t.Errorf("the highest revision is %d, want 9", got)
	}
	s.c.observe(header("@12"))
	s.c.observe(header("@11"))
	s.c.observe(nil)
	if got := s.c.seen.Load(); got != 12 {
		t.Errorf("the highest revision is %d, want 12", got)
	}
	id := s.c.ident.Load()
	if id.ClusterId != 1 || id.MemberId != 2 || id.RaftTerm != 3 {
		t.Errorf("the other header fields are %v", id)
	}
	h := header("@13")
	h.MemberId, h.RaftTerm = 4, 5
	s.c.observe(h)
	h.MemberId = 99 // the caller's to change (I12)
	if id := s.c.ident.Load(); id.MemberId != 4 || id.RaftTerm != 5 {
		t.Errorf("the other header fields are %v after a reply of another member", id)
	}
}

// ---- I14

func TestI14ReconcileDropsWhatTheListingLacks(t *testing.T) {
	run(t, owning("a", 3)+owning("b", 5)+owning("c", 6)+owning("d", 7)+owning("e", 21)+`
		reconcile @20 b@5,ours c@9,ours d@8,theirs j@4,ours x@2,theirs  => yield c@9 j@4
		state a                 => none      # its claim is gone
		read b                  => v@3 5     # still there
		state c                 => yielding@9    # another of ours: not adopted
		state d                 => idle foreign=1m0s    # somebody else has it
		read e                  => v@3 21    # younger than the listing
		state j                 => yielding@4    # of ours, not remembered
		state x                 => idle foreign=1m0s
		claims L1               => 2
	`)
}

func TestI14ReconcileAnswersRevokes(t *testing.T) {
	run(t, owning("a", 3)+owning("b", 5)+`
		reconcile @20 a@3,ours,revoked b@5,ours j@4,ours,revoked x@2,theirs,revoked  => yield a@3 j@4
		state a                 => yielding@3 rests=250ms
		read b                  => v@3 5
		state j                 => yielding@4 rests=500ms # a did not pay
		state x                 => idle rests=500ms foreign=1m0s
	`)
}

func TestI14ReconcileUnderUnsettledWrites(t *testing.T) {
	run(t, owning("a", 3)+owning("b", 5)+`
		begin W a b             => a@3 b@5
		reconcile @20 b@5,ours
		state a                 => idle writes=1
		blocked W @21 a@- b@5
		state a                 => none
		read b                  => v@3 5
	`)
}

// ---- Guards that failed

func TestRefusedGuardShowsThatAClaimIsGone(t *testing.T) {
	run(t, owning("a", 3)+owning("b", 4)+owning("c", 5)+`
		begin W a b c           => a@3 b@4 c@5
		blocked W @9 a@- b@8 c@5
		state a                 => none      # gone
		state b                 => none      # another one
		read c                  => v@3 5     # still ours
		claims L1               => 1
	`)
}

// While it is being yielded, its claim is not a grant to write under.
func TestWriteOfAYieldingKeyIsGuardedAsUnowned(t *testing.T) {
	run(t, owning("k", 5)+`
		revoked k@5 ours        => yield k@5
		begin W k               => k@0!
		blocked W @9 k@5
		state k                 => yielding@5 rests=250ms
		yielded k@5
		begin W k               => k@0
		applied W @11 k=!
		state k                 => idle rests=250ms
	`)
}

// ---- Rests

// Half of them say how long: the next rest must be twice as long while fewer
// than payoff reads were served under the grant.
func TestRestDoublesWhileOwnershipDoesNotPay(t *testing.T) {
	s := newScript(t)
	rest := restMin
	for grant := int64(5); rest < 2*restMax; grant++ {
		s.play(owning("k", grant))
		for range payoff - 1 {
			s.play("read k => v@3 " + fmt.Sprint(grant))
		}
		s.play(fmt.Sprintf("revoked k@%d ours => yield k@%d \n yielded k@%d", grant, grant, grant))
		want := min(rest, restMax)
		s.play(fmt.Sprintf("state k => idle rests=%v", want))
		s.play(fmt.Sprintf("wait %v \n join C k => no", want-1))
		s.play("wait 1ns")
		rest *= 2
	}
	// It pays: one more read than before, and long enough.
	s.play(owning("k", 100))
	for range payoff {
		s.play("read k => v@3 100")
	}
	s.play(fmt.Sprintf("wait %v", payoffRests*restMax))
	s.play(fmt.Sprintf("revoked k@100 ours => yield k@100 \n yielded k@100 \n state k => idle rests=%v", restMin))
}

// read is payoff reads of k under a grant.
func readEnough(grant int64) string {
	return strings.Repeat(fmt.Sprintf("read k => v@3 %d \n", grant), payoff)
}

// Readers who take a key again as soon as it has rested do not make it pay.
func TestRestDoublesWhileTheKeyIsAskedForAtOnce(t *testing.T) {
	s := newScript(t)
	play := func(grant int64, lasts, rest time.Duration) {
		s.t.Helper()
		s.play(owning("k", grant) + readEnough(grant) + fmt.Sprintf(`
			wait %v
			revoked k@%d ours => yield k@%d
			yielded k@%d
			state k => idle rests=%v
			wait %v`, lasts, grant, grant, grant, rest, rest))
	}
	play(5, 0, restMin) // it has never rested before
	play(6, payoffRests*restMin-1, 2*restMin)
	play(7, payoffRests*2*restMin-1, 4*restMin)
	play(8, payoffRests*4*restMin, restMin)
}

// A writer whose way is longer than the key rests gets a rest that is long enough, also
// if only some of the grants pay: how long the key rested counts, for whichever reason.
func TestRestGrowsForADistantWriterIfSomeGrantsPay(t *testing.T) {
	for _, way := range []time.Duration{800 * time.Millisecond, time.Second, 1200 * time.Millisecond, 1400 * time.Millisecond} {
		t.Run(way.String(), func(t *testing.T) {
			s := newScript(t)
			var longest time.Duration
			for i := int64(0); i < 10 && longest < way; i++ {
				grant := 5 + 10*i
				s.play(owning("k", grant))
				if i%2 == 0 {
					s.play(readEnough(grant))
				}
				s.play(fmt.Sprintf("revoked k@%d ours => yield k@%d \n yielded k@%d @%d", grant, grant, grant, grant+1))
				longest = max(longest, s.c.entries.get("k").pause.until.Sub(s.now))
				s.play(fmt.Sprintf("wait %v", way))
			}
			if longest < way {
				t.Errorf("it never rests for more than %v", longest)
			}
		})
	}
}

// A key whose rests are long for the sake of those who ask, and that is not read enough
// under one grant, rests for as long as that takes it to pay: its reads would all go to
// etcd meanwhile. For those who ask it rests as long as they may need.
func TestOneGrantThatDoesNotPay(t *testing.T) {
	s := newScript(t)
	grant := int64(5)
	asked := func(reads string, lasts, rest time.Duration) {
		s.t.Helper()
		s.play(owning("k", grant) + reads + fmt.Sprintf(`
			wait %v
			revoked k@%d ours => yield k@%d
			yielded k@%d @%d
			state k => idle rests=%v`, lasts, grant, grant, grant, grant+1, rest))
		grant += 10
	}
	written := func(rest time.Duration) {
		s.t.Helper()
		s.play(fmt.Sprintf("written k @%d \n state k => idle rests=%v \n wait %v", grant-8, rest, rest))
	}
	const soon = payoffRests*restMin - 1
	asked(readEnough(5), 0, restMin)
	s.play(fmt.Sprint("wait ", restMin))
	for _, rest := range []time.Duration{2 * restMin, 4 * restMin, 8 * restMin} {
		asked(readEnough(grant), soon, rest)
		s.play(fmt.Sprint("wait ", rest))
	}
	asked("", soon, 16*restMin) // nobody has written: it rests for those who ask
	written(2 * restMin)
	asked("", soon, 16*restMin) // the second
	written(4 * restMin)
	s.play(owning("k", grant) + readEnough(grant)) // it pays again
	s.play(fmt.Sprintf("wait 1s \n revoked k@%d ours => yield k@%d \n yielded k@%d @%d", grant, grant, grant, grant+1))
	s.play(fmt.Sprintf("written k @%d \n join C k => begun sharing", grant+2))
}

// Once a key that was read enough is seen to have been written, its rest is over.
func TestRestIsCutShortWhenTheKeyIsWritten(t *testing.T) {
	for name, story := range map[string]string{
		"by whoever asked for it": readEnough(5) + `
			revoked k@5 ours        => yield k@5
			written k @9            # before it is known when the claim went
			join C k                => no
			yielded k@5 @8
			written k @8            # not after that
			join C k                => no
			written k @9
			join C k                => begun sharing`,
		"the watch is quicker": readEnough(5) + `
			revoked k@5 ours        => yield k@5
			deleted k @8
			yielded k@5
			written k @9
			join C k                => begun sharing`,
		"not by ourselves": readEnough(5) + `
			revoked k@5 ours        => yield k@5
			yielded k@5 @8
			begin W k               => k@0
			applied W @9
			written k @9
			join C k                => no
			written k @10
			join C k                => begun sharing`,
		"not while we write it": readEnough(5) + `
			revoked k@5 ours        => yield k@5
			yielded k@5 @8
			begin W k               => k@0
			written k @9            # by us, before we were told
			applied W @9
			join C k                => no`,
		"not a pause after a refusal": readEnough(5) + `
			revoked k@5 ours        => yield k@5
			yielded k@5 @8
			wait 250ms
			join C k                => begun sharing
			send C
			refused C @9 v@9+7      # it carries a lease by now
			written k @9
			join D k                => no`,
		"not if it was hardly read": `
			revoked k@5 ours        => yield k@5
			yielded k@5 @8
			written k @9
			join C k                => no`,
		"not if it was somebody else's": `
			revoked x@5 theirs
			deleted x @8
			written x @9
			join C x                => no`,
	} {
		t.Run(name, func(t *testing.T) { run(t, owning("k", 5)+story) })
	}
}

// A writer who is overtaken again and again gets a whole rest now and then, and
// longer ones if these do not help.
func TestRestIsNotAlwaysCutShort(t *testing.T) {
	s := newScript(t)
	grant := int64(5)
	// cycle is a grant that is asked back after a while, and whose rest may be cut.
	cycle := func(lasts time.Duration, claimable string) {
		s.t.Helper()
		s.play(owning("k", grant) + readEnough(grant) + fmt.Sprintf(`
			wait %v
			revoked k@%d ours => yield k@%d
			yielded k@%d @%d
			written k @%d
			join C%d k => %s`, lasts, grant, grant, grant, grant+1, grant+2, grant, claimable))
		if claimable != "no" {
			s.play(fmt.Sprintf("unsent C%d", grant))
		}
		grant += 10
	}
	rest := func(want time.Duration) {
		s.t.Helper()
		s.play(fmt.Sprintf("state k => idle rests=%v \n wait %v", want, want))
	}
	const free = "begun sharing"
	cycle(0, free)
	for range 4 {
		cycle(time.Second, free)
	}
	cycle(time.Second, "no")
	rest(restMin)
	cycle(payoffRests*restMin-1, free) // asked for at once: the next whole one is longer
	for range 4 {
		cycle(2*time.Second, free)
	}
	cycle(2*time.Second, "no")
	rest(2 * restMin)
	cycle(payoffRests*2*restMin, free) // that was enough
	for range 3 {
		cycle(time.Second, free)
	}
	cycle(time.Second, "no")
	rest(restMin)
}

func TestRestIsForgottenAfterAWhile(t *testing.T) {
	s := newScript(t)
	s.play(owning("k", 5) + "revoked k@5 ours => yield k@5 \n yielded k@5")
	s.play(fmt.Sprintf("wait %v", restMin+restMax-1))
	s.play(`revoked x@7 theirs
	        state k => idle`) // it rests no more, but is remembered
	s.play("wait 1ns")
	s.play(`revoked y@8 theirs
	        state k => none`)
}

// Where most grants do not pay, a key rests for longer the first time it is asked
// back. One that has paid does not.
func TestFirstRestIsAsLongAsUsual(t *testing.T) {
	s := newScript(t)
	ends := func(key string, grant int64, reads string, rest time.Duration) {
		s.t.Helper()
		s.play(owning(key, grant) + reads + fmt.Sprintf("revoked %s@%d ours => yield %s@%d \n yielded %s@%d", key, grant, key, grant, key, grant))
		s.play(fmt.Sprintf("state %s => idle rests=%v", key, rest))
		s.play(fmt.Sprintf("wait %v", restMin)) // what happens at the same time counts once
	}
	for i, rest := range []time.Duration{restMin, 2 * restMin, 4 * restMin, 8 * restMin, 16 * restMin, restMax, restMax} {
		ends(fmt.Sprint("k", i), int64(5+i), "", rest)
	}
	for i := range 4 {
		ends(fmt.Sprint("p", i), int64(20+i), strings.Repeat(fmt.Sprintf("read p%d => v@3 %d \n", i, 20+i), payoff), restMin)
	}
	ends("q", 30, "", restMax/16)
	s.play(fmt.Sprintf("revoked x@31 theirs \n state x => idle rests=%v foreign=1m0s", restMax/8))
}

// A key that was asked back rests, whatever overtakes what: else readers could
// starve the writer who asked.
func TestRevokedKeyRests(t *testing.T) {
	for name, story := range map[string]string{
		"ours": owning("k", 5) + `
			revoked k@5 ours        => yield k@5
			yielded k@5`,
		"ours, and our yield is seen": owning("k", 5) + `
			revoked k@5 ours        => yield k@5
			deleted k @9
			yielded k@5`,
		"ours, not remembered": `
			revoked k@5 ours        => yield k@5
			yielded k@5`,
		"theirs": `
			revoked k@5 theirs
			deleted k @9`,
		"theirs, known to be so": `
			join C k                => begun sharing
			send C
			refused C @6 v@3 k@5 theirs
			revoked k@5 theirs
			deleted k @9`,
		"theirs, learned later": `
			join C k                => begun sharing
			send C
			revoked k@5 theirs
			refused C @6 v@3 k@5 theirs
			deleted k @9`,
		"ours, before the reply": `
			join C k                => begun sharing
			send C
			revoked k@5 ours        => yield k@5
			granted C @5 v@3        => yield k@5
			deleted k @9
			yielded k@5`,
		"ours, and our yield is seen, before the reply": `
			join C k                => begun sharing
			send C
			revoked k@5 ours        => yield k@5
			deleted k @9
			granted C @5 v@3`,
		"ours, and the reply is lost": `
			join C k                => begun sharing
			send C
			revoked k@5 ours        => yield k@5
			lost C                  => yield k@?
			yielded k@5
			yielded k@?`,
	} {
		t.Run(name, func(t *testing.T) {
			run(t, story+`
				join D k                => no
				wait 249999us
				join D k                => no
				state k                 => idle rests=1µs
				wait 1us
				state k                 => idle
				join D k                => begun sharing
			`)
		})
	}
}

func TestForeignKeyIsReadPlainlyUntilItsClaimGoes(t *testing.T) {
	story := `
		join C k                => begun sharing
		send C
		refused C @6 v@3 k@5 theirs
		facts C                 => v@3 6     # good enough for its readers
		claims L1               => 0
		state k                 => idle foreign=1m0s
		join D k                => no
	`
	run(t, story+`
		deleted k @9
		join D k                => begun sharing
	`)
	run(t, story+`
		wait 59999ms
		join D k                => no
		wait 1ms
		join D k                => begun sharing
	`)
	run(t, `
		join C k                => begun sharing
		send C
		deleted k @7            # the news of its end overtakes the refusal
		refused C @6 v@3 k@5 theirs
		join D k                => begun sharing
	`)
	run(t, story+`
		reconcile @9            # the watch had a gap, in which the claim went
		join D k                => begun sharing
	`)
}

// What the watch tells of others' claims spares the reads that would find out.
func TestClaimsOfOthersAreLearnt(t *testing.T) {
	run(t, `
		taken k@5 theirs
		state k                 => idle foreign=1m0s
		join C k                => no
		deleted k @4            # of an earlier claim
		join C k                => no
		taken k@7 theirs        # they have taken it again
		deleted k @6
		join C k                => no
		deleted k @8
		join C k                => begun sharing
	`)
}

func TestRefusedClaimPauses(t *testing.T) {
	for _, story := range []string{
		"denied C",
		"refused C @6 v@3+9", // the key carries a lease
	} {
		run(t, `
			join C k                => begun sharing
			send C
			`+story+`
			facts C                 => ?
			claims L1               => 0
			state k                 => idle rests=10s
			deleted k @9            # has nothing to do with it
			wait 9999ms
			join D k                => no
			wait 1ms
			join D k                => begun sharing
		`)
	}
}

// ---- Bounds

func TestAgingEntriesAreBounded(t *testing.T) {
	s := newScript(t)
	const extra = 1000
	for i := range maxAging + extra {
		s.c.revoked(claimRecord{key: fmt.Sprint(i), grant: 5}, false, s.now)
	}
	if n := s.c.entries.n; n > maxAging+4 {
		t.Errorf("%d entries are kept for the sake of their rest, want %d at most", n, maxAging)
	}
	// The oldest of them is asked back again, and again.
	oldest := s.c.aging[0].key
	for i := range 10 {
		s.c.revoked(claimRecord{key: oldest, grant: int64(6 + i)}, false, s.now)
		s.c.revoked(claimRecord{key: fmt.Sprint("more", i), grant: 5}, false, s.now)
	}
	if bad := inconsistency(s.c); bad != "" {
		t.Error(bad)
	}
	s.now = s.now.Add(time.Hour)
	for i := range maxAging {
		s.c.revoked(claimRecord{key: fmt.Sprint("later", i%10), grant: int64(7 + i)}, false, s.now)
	}
	if n := s.c.entries.n; n > 20 {
		t.Errorf("%d entries are left that have rested long ago", n)
	}
	if bad := inconsistency(s.c); bad != "" {
		t.Error(bad)
	}
}

func TestClaimsAreCountedPerLease(t *testing.T) {
	run(t, `
		join A a                => begun sharing
		join B b                => begun sharing
		join C c                => begun sharing
		join D d                => begun sharing
		claims L1               => 0
		send A
		send B L2
		send C L2
		send D L2
		claims L1               => 1
		claims L2               => 3
		granted A @5 v@3
		granted B @6 v@3
		refused C @7 v@3 c@2 theirs
		lost D                  => yield d@?
		claims L2               => 2
		over L1
		claims L1               => 0
		state a                 => none
		read b                  => v@3 6
		yielded d@?
		claims L2               => 1
		revoked b@6 ours        => yield b@6
		claims L2               => 1         # until it is gone
		yielded b@6
		claims L2               => 0
	`)
	s := newScript(t)
	if got := s.c.room(s.leases["L1"], 10); got != 10 {
		t.Errorf("room for %d claims, want 10", got)
	}
	s.play(owning("k", 5))
	if got := s.c.room(s.leases["L1"], 10); got != 9 {
		t.Errorf("room for %d claims, want 9", got)
	}
}

// ---- Bounds

// When more keys are owned than the limit allows, one that was not read lately
// is given up: forgotten first, as ever (I7).
func TestI7EvictedKeyIsForgottenBeforeItIsReleased(t *testing.T) {
	s := newScript(t)
	s.c.limit = 2
	s.play(owning("a", 5) + owning("b", 6) + `
		read a                  => v@3 5
		join C c                => begun sharing
		send C
		granted C @7 v@3        => yield b@6    # a was read since it was claimed
		read a                  => v@3 5
		read b                  => ?
		state b                 => yielding@6
		join D d                => begun sharing
		send D
		granted D @8 v@3        => yield c@7
		yielded b@6
		state b                 => none         # it does not rest
		read a                  => v@3 5
		read d                  => v@3 8
		join E e                => begun sharing
		send E
		granted E @9 v@3        => yield d@8    # a was read more
	`)
}

// A key under an unsettled write is not given up, nor is the latest one, unless there is
// no other. So the bounds hold.
func TestEvictionSparesWhatIsInUse(t *testing.T) {
	s := newScript(t)
	s.c.limit = 1
	s.play(owning("a", 5) + `
		begin W a               => a@5
		join C b                => begun sharing
		send C
		granted C @7 v@3        => yield b@7
		facts C                 => v@3 7
		read b                  => ?
		applied W @8 a=w@8
		read a                  => w@8 8
	`)
}

// owning is a story in which key becomes owned under grant; its value is v,
// since revision 3.
func owning(key string, grant int64) string {
	return fmt.Sprintf("join C %s => begun sharing \n send C \n granted C @%d v@3 \n", key, grant)
}

// A key for which a REVOKE was just seen is not claimed before it has rested, also if it
// rested already, for another, and whatever is seen to have been written.
func TestRestBeginsAnewForWhoeverAsks(t *testing.T) {
	for _, written := range []string{"", "written k @7"} {
		s := run(t, owning("k", 5)+strings.Repeat("read k => v@3 5\n", payoff)+`
			revoked k@5 ours    => yield k@5
			yielded k@5 @6
			wait 20ms
			taken k@8 theirs                # the writer has written at 7; now somebody else claims it
			wait 20ms
			revoked k@8 theirs              # and another writer asks him
			wait 1ms
			`+written+`
			deleted k @9                    # whose put is on its way
		`)
		asked := s.now.Add(-time.Millisecond)
		for !s.c.entries.get("k").claimableLocked(s.now) {
			s.now = s.now.Add(time.Millisecond)
		}
		if rest := s.now.Sub(asked); rest < restMin {
			t.Errorf("%q: the key may be claimed %v after it was asked for", written, rest)
		}
	}
}
